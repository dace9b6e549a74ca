"""Training runs: from settings to a run folder. Importing this package loads no heavy library.

The order of things, one file each:

    settings    all that defines a run; from a config file, options and assignments
    prepare     base model found, tokenizer and data loaded, choices made, steps planned (plan)
    build       model, method and trainer put together (trainer, head)
    callback    what happens around each step: a line of metrics, evaluation, checkpoint, stop
    checkpoint  whole or absent; record compares a run with its continuation
    run         all of it in order; folder keeps what is half done out of sight
    result, curve, card, screen   what came out, drawn, described and shown
    dry_run, estimate   the same as far as it goes without loading the model
"""
