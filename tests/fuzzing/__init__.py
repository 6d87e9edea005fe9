"""Structure-aware fuzzing behind the parser: inputs that are well formed, with right checksums, and hostile.

    judge     what must hold for every input, and limits that end a case which does not
    edits     strategies that every target shares: changed bytes, JSON, tensors, text
    files     targets: the container, its noise section, a whole file against a tiny model
    sequences targets: scenes and chunks, a whole sequence against a tiny model
    settings  targets: YAML, environment variables, a fit that settings ask for
    weights   targets: checkpoints to resume, to start from and to edit; PEFT folders
    texts     targets: descriptions, captions, manifests, curves
    entries   targets: whole commands

`bash scripts/fuzz.sh` runs the campaign, `tests/test_fuzzing.py` a short one.
"""
