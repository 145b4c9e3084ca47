"""The batch systems that there are workers on."""

from __future__ import annotations

from typing import Final

CLUSTERS: Final = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
    "htcondor": "HTCondorCluster",
}
"""By their names, the classes that `dask_jobqueue` has for them."""
