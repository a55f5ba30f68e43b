"""What a checkout of this project does, seen from outside: which commands are run, and what is observed of each."""
