"""Callbacks that clip in the training loop of another library, one module each, which gradclip itself never imports."""
