"""Any video in one file: scenes, chunks that begin with a known frame, one `.vov`.

    scenes   where the cuts are            plan     which frames make which chunk
    chunk    one pass of the model         encode   video → file, streaming, resumable       decode   file → frames
"""
