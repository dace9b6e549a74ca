"""The server's side of running jobs: starts, hears, stops and takes over the workers.

Its files:

    supervisor   the loop: one look at everything each second
    attend       one running job: is its worker alive, should it stop, how did it end
    starvation   why a running job does not get on
    throttle     workers stopped for as long as requests run
    estimate     what jobs would take, asked while they wait
    estimate_process   ... of a process that imports training once
    needs_of_results   ... of proofs and exports, by the sizes of files
    launch       how a worker is started
    room         what memory and disk the machine has now
    reconcile    what a crash has left undone between database and disk
"""
