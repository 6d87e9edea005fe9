"""What users run, one file a verb; image/*.py, video/*.py and scripts/*.py call these.

    options    what a fit is given, and where inputs are      pictures    descriptions, captions, sizes of pictures
    fit        train: stages to a file                         stages      the same without variables
    encode     coded noise by the frozen model                 film        the same of a video
    add_noise  coded noise for a fitted file                   decode      reconstruct
    edit       a new caption, merged fits                      evaluate    metrics and anchors
    saving     decoded frames on disk                          run_report  result.json and its table
"""
