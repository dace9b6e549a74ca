"""Several methods on the same rows, seeds and steps, and what each brings and costs.

    settings   all that defines a comparison; entries, budget   what --methods and --budget say
    layout     the folder: what lies where; record   the comparison that it belongs to
    plan       the first job: data and entries checked, sizes chosen (size), before anything heavy
    jobs       what each process does: plan, score the base, time a method, train and score
    worker     the process of one job, which tells its progress in lines of JSON
    process    start a worker, hear it, stop it
    compare    all of it in order, what is finished left alone
    result, table, plots, screen   what came out, written, drawn and shown

Each run has a process of its own: its peak memory is its own, and a run that dies takes no other
with it.
"""
