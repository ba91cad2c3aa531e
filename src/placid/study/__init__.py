"""The study of the paper in one run directory: a list of stages (stages.py), each reading and writing files.

Every stage skips what is done, so the same command continues a killed study, and a config that asks for more makes a
finished run grow: `placid rollout`, `judge`, `intervene`, `pairs`, `train`, `eval` and `report` are `placid study`
step by step.
"""
