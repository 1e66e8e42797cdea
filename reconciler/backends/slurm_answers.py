"""What `sbatch` says when it does not print a job's id, and what that proves. Pure data; read by slurm.py.

`sbatch` ends with 1 for almost everything, so its words decide. Three groups: the controller answered and said no (for good, or for want
of room); sbatch gave up before it sent anything; and everything else, which proves nothing and is *not in this table*: "Socket timed
out on send/recv operation" has turned into a job 24 times of 24, and of "Zero Bytes were transmitted or received", "Connection reset by
peer", "Unexpected missing socket error", "(send failure)" and "(receive failure)" nobody can say whether the request had arrived.
"Protocol authentication error" is as open: it is also said when the *answer* could not be verified. With munge down on the login node,
sbatch says besides that it could not *encode*, and that is proof.

Source of the words: slurm_errno.c and the opt.c, sbatch.c of Slurm 22.05, and recordings (tests/backends/recorded/slurm).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.core.observed import Answer

_FAILED = "Batch job submission failed: "

#: Printed on a line of its own before the general sentence: how many jobs there may be. Room comes back as jobs end.
_SUBMIT_LIMITS = (
    "AssocMaxSubmitJobLimit",
    "AssocGrpSubmitJobsLimit",
    "QOSMaxSubmitJobPerUserLimit",
    "QOSGrpSubmitJobsLimit",
    "MaxSubmitJobsPerAccount",
)
#: The same place, other words: what one job asks is beyond a limit, and the QOS says to refuse it (DenyOnLimit). Waiting cannot help.
_JOB_LIMITS = (
    "error: QOSMax", "error: QOSMin", "error: QOSGrp", "error: AssocMax", "error: AssocGrp", "error: MaxBBPerAccount",
    "error: MaxBillingPerAccount", "error: MaxCpuPerAccount", "error: MaxEnergyPerAccount", "error: MaxGRESPerAccount",
    "error: MaxLicensePerAccount", "error: MaxMemPerLimit", "error: MaxMemoryPerAccount", "error: MaxNodePerAccount",
    "error: MaxUnknownPerAccount",
)  # fmt: skip
#: The controller's answer: there is no room, or a door is shut for now. The general sentence about policy names no limit in old
#: versions, where it is nearly always the number of jobs: to wait and say so is the smaller mistake.
_NOT_NOW = (
    "Job violates accounting/QOS policy",
    "Resource temporarily unavailable",  # MaxJobCount is reached; sbatch has tried for two minutes
    "Unable to create job record, try again",
    "Required partition not available (inactive or drain)",
    "Partition in DOWN state",
    "Requested partition configuration not available now",
    "Requested nodes are busy",
    "Required node not available (down, drained or reserved)",
    "Requested reservation not usable now",
    "Requested reservation is in use",
    "Burst Buffer resource limit exceeded",
    "Step limit reached for this job",
)
#: The controller's answer: no, whenever it is asked.
_NEVER = (
    "Invalid partition name specified",
    "No partition specified or system default partition",
    "User's group not permitted to use this partition",
    "Requested nodes not in this partition",
    "More processors requested than permitted",
    "Node count specification invalid",
    "CPU count specification invalid",
    "Task count specification invalid",
    "Task distribution specification invalid",
    "Job size specification needs to be provided",
    "Pathname of a file, directory or other parameter too long",
    "Requested node configuration is not available",
    "Access/permission denied",
    "Job script not specified",
    "Invalid user id",
    "Invalid group id",
    "Invalid node name specified",
    "Invalid feature specification",
    "Invalid preferred feature specification",
    "Invalid account or account/partition combination specified",
    "Invalid qos specification",
    "Invalid wckey specification",
    "Invalid license specification",
    "Invalid mcs_label specified",
    "Invalid generic resource (gres) specification",
    "Invalid GRES specification",
    "Duplicate generic resource (gres) specification",
    "Requested GRES option unsupported by configured SelectType plugin",
    "Insufficient GRES available in allocation",
    "Invalid Trackable RESource (TRES) specification",
    "Invalid job array specification",
    "Invalid time specified",
    "Invalid time-min specification",
    "Invalid cluster name",
    "Invalid cluster feature specification",
    "No eligible clusters for federated job",
    "Invalid KNL configuration",
    "Multiple KNL NUMA and/or MCDRAM constraints require use of a heterogeneous job",
    "Time limit specification required, but not provided",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Job dependency problem",
    "Circular job dependency",
    "Access denied to requested reservation",
    "Requested reservation is invalid",
    "Requested account has breached requested QOS usage threshold",
    "Requested more tasks than available processors",
    "Requires more ports than can be reserved",
    "Memory required by task is not available",
    "Multiple partition job request not supported when a partition is set in the association",
    "Cannot request more threads per core than the job allocation",
    "Job --batch option is invalid or not a subset of --constraints",
    "Only batch jobs are accepted or processed",
    "Requested operation not supported on this system",
    "Current SwitchType does not permit arbitrary task distribution",
    "Burst Buffer request invalid",
    "Burst Buffer permission denied",
    "X11 forwarding not available",
    "Environment is missing in job",
    "Container support is not configured",
    "Container runtime not configured or invalid",
)
#: sbatch's own: it does not understand what it is asked, or will not send it.
_MISUSED = (
    "sbatch: unrecognized option",
    "sbatch: invalid option",
    "sbatch: ambiguous option",
    "sbatch: option '",  # … requires an argument; is ambiguous; doesn't allow an argument
    "error: Invalid --",
    "error: invalid --",
    "error: Invalid numeric value",
    "error: Invalid generic resource (gres) specification",
    "error: Invalid directive found in batch script",
    "error: This does not look like a batch script",
    "error: Batch script contains DOS line breaks",
    "error: contain a NULL character",
    "error: Memory specification can not be satisfied",
    "error: CPU count per node can not be satisfied",
)
#: The controller said that it cannot, or sbatch did not get as far as sending: the same again, later, is right.
_NOT_SENT = (
    f"{_FAILED}Unable to contact slurm controller (connect failure)",
    f"{_FAILED}I/O error writing script/environment to file",
    f"{_FAILED}Slurm backup controller in standby mode",
    f"{_FAILED}Controller is in standby mode, try a different controller",
    f"{_FAILED}System submissions disabled",
    "error: Munge encode failed",
    "error: Unable to open file",
    "error: Batch script is empty",
    "fatal: Unable to process configuration file",
    "fatal: Could not establish a configuration source",
    "sbatch: not found",
    "sbatch: command not found",
    "sbatch: Permission denied",
)


def _table() -> Iterable[tuple[str, Answer]]:
    yield from ((piece, Answer.LIMIT) for piece in _SUBMIT_LIMITS)
    yield from ((piece, Answer.REFUSED) for piece in _JOB_LIMITS)
    yield from ((_FAILED + piece, Answer.LIMIT) for piece in _NOT_NOW)
    yield from ((_FAILED + piece, Answer.REFUSED) for piece in _NEVER)
    yield from ((piece, Answer.TRANSIENT) for piece in _NOT_SENT)
    yield from ((piece, Answer.REFUSED) for piece in _MISUSED)


#: In order: the first piece that the text holds decides.
ANSWERS: Sequence[tuple[str, Answer]] = tuple(_table())

#: Shell text, builtins only: of `out`, all that sbatch printed, `id` becomes the job's id. A line that is a number alone, or with
#: `;<cluster>`, is what --parsable prints; `Submitted batch job <id>` is what a site's wrapper of sbatch may print all the same. Two
#: different numbers name no job.
ACCEPT = r"""id= _rest=$out
while [ -n "$_rest" ]; do
  _line=${_rest%%"
"*}
  case $_rest in *"
"*) _rest=${_rest#*"
"} ;; *) _rest= ;; esac
  _line=${_line#Submitted batch job }
  _line=${_line%% on cluster *}
  case ${_line%%;*} in
  '' | 0* | *[!0-9]* | ???????????*) ;;
  *) case $_line in *' '*) ;; *) if [ -z "$id" ] || [ "$id" = "${_line%%;*}" ]; then id=${_line%%;*}; else id=none; fi ;; esac ;;
  esac
done
[ "$id" != none ] || id="""
