"""Reasons for which SLURM never starts a job. tests/slurm has some on a real SLURM."""

from __future__ import annotations

import asyncio

import pytest

from dask_limits.batch_systems.slurm_reasons import explain, never_passes, why_never_starts

SHORT = {"PartitionName": "short", "MaxTime": "00:05:00", "MinNodes": "1", "MaxNodes": "UNLIMITED"}
SHORT |= {"TotalNodes": "2"}
LONG = SHORT | {"PartitionName": "long", "MaxTime": "1-00:00:00"}
NO_END = SHORT | {"PartitionName": "main", "MaxTime": "UNLIMITED"}
JOB = {"Partition": "short", "TimeLimit": "00:10:00", "NumNodes": "1", "Account": "chemistry"}
JOB |= {"QOS": "debug", "Features": "gpu", "Dependency": "afterok:12(failed)"}


@pytest.mark.parametrize(
    "reason",
    [
        "PartitionTimeLimit",
        "PartitionNodeLimit",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "AccountNotAllowed",
        "QOSNotAllowed",
        "DependencyNeverSatisfied",
        "ReservationDeleted",
        "DeadLine",
        "MaxMemPerLimit",
        "AssocMaxWallDurationPerJobLimit",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxMemPerNode",
        "AssocMaxCpuMinutesPerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSMaxMemoryPerJob",
        "QOSMinCpuNotSatisfied",
        "QOSMinMemory",
    ],
)
def test_a_reason_that_time_does_not_cure_is_known_and_explained(reason):
    assert never_passes(reason)
    job = JOB | {"NumNodes": "3"}
    text = explain(reason, job, [SHORT])
    assert "pecify" in text or "Change" in text
    assert "(unknown)" not in text


@pytest.mark.parametrize(
    "reason",
    [
        "Resources",
        "Priority",
        "PartitionDown",
        "PartitionInactive",
        "ReqNodeNotAvail",
        "Dependency",
        "BeginTime",
        "Licenses",
        "Reservation",
        "JobHeldUser",
        "JobHeldAdmin",
        "AssocGrpCpuLimit",
        "AssocMaxJobsLimit",
        "QOSMaxCpuPerUserLimit",
        "QOSMaxJobsPerUserLimit",
        "QOSGrpMemLimit",
        "MaxCpuPerAccount",
        "NodeDown",
        "Prolog",
        "AssocMaxSubmitJobLimit",
        "None",
    ],
)
def test_a_reason_that_can_pass_is_waited_for(reason):
    assert not never_passes(reason)
    assert not never_passes("")
    assert not never_passes("Nodes required for job are DOWN, DRAINED or reserved for jobs")


@pytest.mark.parametrize(
    ("reason", "job", "text"),
    [
        (
            "PartitionTimeLimit",
            {},
            "The job's time limit, 00:10:00, is above that of partition short, 00:05:00. Specify"
            ' `walltime` as "00:05:00" or less, or specify another partition with `queue`.',
        ),
        ("PartitionTimeLimit", {"TimeLimit": "UNLIMITED"}, "time limit, UNLIMITED, is above"),
        ("PartitionNodeLimit", {"NumNodes": "3-4"}, "asks for 3 nodes, and partition short has 2."),
        ("AccountNotAllowed", {}, "Partition short does not allow account chemistry."),
        (
            "AssocMaxWallDurationPerJobLimit",
            {},
            "than account chemistry allows each job (AssocMaxWallDurationPerJobLimit)."
            " Specify a shorter `walltime`. `sacctmgr show assoc user=$USER` lists the limits.",
        ),
        ("QOSMinCpuNotSatisfied", {}, "for less than QOS debug allows each job"),
        ("QOSMinCpuNotSatisfied", {}, "Specify more `cores`."),
        ("QOSMaxGRESPerJob", {}, "Change the request in `job_extra_directives`."),
    ],
)
def test_it_is_explained_with_its_figures_and_what_to_change(reason, job, text):
    assert text in explain(reason, JOB | job, [SHORT])


@pytest.mark.parametrize(
    ("n_nodes", "limits", "text"),
    [
        ("1", {"MinNodes": "2"}, "asks for 1 node, and partition short allows no fewer than 2."),
        ("2", {"MaxNodes": "1"}, "asks for 2 nodes, and partition short allows no more than 1."),
        ("2", {}, ""),  # some nodes may be down
        ("many", {}, ""),
    ],
)
def test_a_node_limit_is_one_by_its_figures_alone(n_nodes, limits, text):
    said = explain("PartitionNodeLimit", JOB | {"NumNodes": n_nodes}, [SHORT | limits])
    assert text in said
    assert bool(text) == bool(said)


def test_a_job_for_several_partitions_may_start_in_another_one_than_the_reason_is_of():
    job = JOB | {"Partition": "short,long"}
    assert explain("PartitionTimeLimit", job, [SHORT, LONG]) == ""
    assert explain("PartitionTimeLimit", job, [SHORT, NO_END]) == ""
    text = explain("PartitionTimeLimit", job | {"TimeLimit": "2-00:00:00"}, [SHORT, LONG])
    assert "is above that of partition short,long, 1-00:00:00." in text
    assert explain("BadConstraints", job, [SHORT, LONG]) == ""


def test_nothing_is_said_where_slurm_does_not_answer_or_its_words_are_not_known(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert asyncio.run(why_never_starts("17", "BadConstraints")) == ""
    assert explain("PartitionTimeLimit", JOB | {"TimeLimit": "soon"}, [SHORT]) == ""
    assert explain("PartitionTimeLimit", {}, []) == ""
    assert explain("Resources", JOB, [SHORT]) == ""
