"""The process of one attempt of a job: the only part of the room that trains.

Its files:

    __main__       the entry: `python -m gossamer.jobs.worker JOBDIR ATTEMPT`
    work           the steps of an attempt, in order
    listener       what a run says, as events of its job
    estimate       another process: what a job would take
    heartbeat      the thread that keeps the lease, and stops the run when the job was lost
    surroundings   processors, memory and the network, as far as training may use them
"""
