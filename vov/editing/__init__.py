"""Editing fits: a new caption, several θ at once.

    settings   variables of the commands; needs no torch     edit   θ and captions → frames     command   files, figures
"""
