"""Training runs, from settings to a run folder. Importing this package loads no heavy library.

The order of a run, by files and folders:

    settings         all that defines a run; from a config file, options and assignments
    prepare          base model found, tokenizer and data loaded, choices made, steps planned (plan)
    loop             model, method and trainer put together (build), a trainer per stage (stages),
                     and what happens around each step (callback)
    outputs          what a run leaves: checkpoints, metrics, run record, model card, loss curve
    run              all of it in order; nothing half done appears in the run folder
    dry_run, memory_estimate   the same as far as it goes without loading the model
"""
