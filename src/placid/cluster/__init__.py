"""Where it runs: site profiles, sbatch texts, submission, Ray and ranks across an allocation. Knows no science.

site.py       what a profile slurm/<site>.toml may say
sbatch.py     profile + stage → the exact sbatch text (pure)
preflight.py  everything that can be wrong, before anything is queued
submit.py     snapshot of code and config, jobs that wait for each other, submission through submitit
slurm.py      what sinfo, scontrol, squeue and sacct say
ports.py      addresses and ports inside an allocation
ray_node.py   one node of a Ray cluster (run by srun)
ray_start.py  Ray's own processes there (run by ray_node.py)
rank.py       one training rank (run by srun)
end.py        how a job ended, and whether it comes back (run at the end of every job)
"""
