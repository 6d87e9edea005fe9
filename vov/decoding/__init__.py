"""A file to frames. Knows the file, the frozen model and nothing of encoders.

    limits   how much work a file may ask for        replay      coded noise in the sampler's steps
    chunk    one pass of the model                   sequence    many chunks, one after the other
    collection   a θ that many files share
"""
