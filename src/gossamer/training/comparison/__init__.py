"""Compares several methods on the same rows, seeds and steps: what each brings and costs.

    settings   all that defines a comparison, its budget too; entries   what --methods says
    folder     the folder: what lies where, and the comparison that it belongs to
    plan       the first job: data and entries checked, sizes chosen, before anything heavy
    jobs       what each process does: plan, score the base, time a method, train and score
    worker     the process of one job, which tells its progress in lines of JSON
    process    start a worker, hear it, stop it
    compare    all of it in order, what is finished left alone
    results, plots, progress   the results, drawn and shown

Each run has a process of its own: its peak memory is its own, and a run that dies takes no other
with it.
"""
