"""Many files at once: what is to be done (`jobs`), where it is done (`cluster`), what came out (`summary`)."""
