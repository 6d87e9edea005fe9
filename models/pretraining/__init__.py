"""How the embedded models were trained: python -m models.pretraining --help, or pretrain.sh."""
