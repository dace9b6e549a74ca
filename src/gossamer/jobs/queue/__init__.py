"""Who trains next, and why the others wait. Integers, floats and dataclasses: no process, no table.

Its files:

    needs     what a job takes of memory and disk, and what must stay free
    order     whose turn it is: the tenant that has trained least for its share
    choose    who of them starts now, and a sentence for each that does not
"""
