"""Further experiments of the paper and the original notebooks: each command writes a result file and plots."""
