"""Campaigns: run a list of jobs on any machine, within a time limit, and resume later.

A plan (TOML) lists the commands; the campaign folder holds their outputs. See ``python -m common.campaign -h``.
"""
