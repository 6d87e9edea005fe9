"""What every room stands on, without knowing of codecs.

    files        files that appear whole or not at all, locks, hashes      random      numbers from (seed, stream)
    resumable    outputs that a stopped command goes on with               background  work beside the main thread
    signals      SIGINT and SIGTERM at a safe place                        launch      starts one process, or several
    processes    those of one machine: what they are told, how they end together
"""
