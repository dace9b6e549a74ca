"""Fine-tuning jobs that outlive any crash: rows in a database, and a process for each attempt.

The order of a job, by files and folders:

    settings, data_folder, ids   what the room is told, where its files lie, how things are named
    store        the tables: files, jobs, events, models; a transaction for each step of a job
    files        uploads: received, kept once, checked, swept
    queue        who runs next, and why the others wait; pure Python
    worker       the process of one attempt of a job
    supervise    starts, hears, stops and takes over those processes

The run folder of a job is the truth of its run: losses, checkpoints, adapter, outcome. The database
is the truth of everything else.
"""
