"""One batch divided into shards, and the workers that compute them together; loops over several machines.

`shards` is the rule: which images a shard has, and in which order the shards are added. `step` computes an
update by it. `machines` gives the items of a loop to the processes of several machines. `exchange` is what
workers need of each other, `mpi` does it, and `launch` starts workers.
"""
