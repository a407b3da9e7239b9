"""A campaign: a list of results that are wanted, made as far as the time allows, on any machine, and resumed later.

A plan (TOML) names commands that users have; a folder holds what they made. ``python -m common.campaign -h``.
"""
