"""The process of one attempt of a job: the only part of the room that works.

Its files:

    __main__       the entry: `python -m gossamer.jobs.worker JOBDIR ATTEMPT`
    work           the steps of an attempt, in order
    task           what the work of a kind is given, and what it must do
    kinds          which work a job of which kind does
    tune           ... of a job that tunes
    comparison     ... of a comparison, in a folder: the work, and what it says
    verify         ... of a proof
    export         ... of an export
    listener       what a run says, as events of its job
    failures       what its owner is told of a job that would fail again
    estimate       another process: what a job would take
    heartbeat      the thread that keeps the lease, and stops the run when the job was lost
    surroundings   processors, memory and the network, as far as training may use them
"""
