"""Torture: the commands are killed, run out of disk, lose their folders, and are given again until they are done.

    commands    what is run, as `cli.run` runs it, in a process forked from one that has everything imported
    trials      kills, full disks, read-only and vanishing folders; each ends in the bytes of an undisturbed run or says
                why not

`bash scripts/torture.sh` runs all and can itself be stopped and given again.
"""
