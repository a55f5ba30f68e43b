"""The observable behaviour of a checkout of this project: the commands that are run, and what is observed of each."""
