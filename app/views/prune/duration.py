"""How long a pruning run takes: as long as the last one of its kind, or a guess from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.measure import cost
from app import wording
from app.state import measured, session, session_runs
from pruning import runs
from pruning.budget import BUDGETED_STRUCTURES, measured_widths
from pruning.jobs import ROUGH_IMAGES, Job, SurveyJob, TrialJob
from pruning.methods import METHODS
from pruning.runs import Run

REUSED = "Sensitivities were measured before"  # what the log of a run says that did not measure them
# What a guess counts with: forward passes of the model, whose time tells how fast the machine is [ours].
_FITTING = 15  # for a calibration image of a method that scores
_SCORING = 4  # the same for a trial
_PROJECTING = 10  # the same of a method that computes new weights
# Measured with `spectral` as processor seconds of one thread on an AMD EPYC that others computed on as well,
# where an image took the demo 0.015, DeiT-Tiny 0.055 and ViT-B (SigLIP's) 0.6 s. The demo's survey took 38 s
# (11 of them solves for MLPs and values, 5 fits of attention scores), one block of ViT-B's on 7 images 70
# (58 and 11): solves go as the cube of the MLP's width, fits as the MACs of attention scores. To make a
# model of ViT-B from 7 images took 600 s. DeiT-Tiny's whole survey had taken 140 s.
_SOLVING = 40  # times the cubes of all MLP widths over the model's MACs, to make a model
_NARROWING = 55  # the same for the curves of a survey
_ALL_PAIRS = 250  # times the share of attention scores in the MACs, for each of the first images of a fit
_SCORED = 64  # so many images
_CURVES_PAIRS = 12_000  # times that share, for the curves of a survey
_NARROWED = 48  # calibration images that single blocks are fitted on, at most
_RUN = 2.5  # points of a curve for which the network is run; the others are predicted
_SHORTER = 25  # for an image, for schedules of merging and halves of blocks, counted for twelve blocks
_SPREAD = 0.6, 2.0  # how far a guess is off


@dataclass(frozen=True)
class Expected:
    """Seconds from `low` to `high`; they are equal where an earlier run took that long."""

    low: float
    high: float

    @property
    def span(self) -> str:
        """About how long it takes."""
        if self.low == self.high:
            return f"about {wording.duration(self.low)}"
        return f"roughly {wording.duration_between(self.low, self.high)}"

    @property
    def words(self) -> str:
        """About how long it takes, and how that is known."""
        known = "as the last run like this took"
        if self.low < self.high:
            known = "a guess from the time of one image on this machine"
        return f"{self.span[0].upper()}{self.span[1:]}, {known}"


def of_pruning(job: Job, surveyed: bool) -> Expected | None:
    """What to expect of a run; `surveyed` if the sensitivities that its budget needs are known.

    None for methods that train, of which nothing is known before one has.
    """
    last = next((run for run in _done(Job) if _alike(run, job, surveyed)), None)
    if last is not None:
        return Expected(last.seconds, last.seconds)
    if job.trains or job.data == "":
        return None
    passes = 2 * session.test_count() + _fitting_passes(job, _calibration_images(job))
    if job.budget is not None and not surveyed:
        passes += _survey_passes(job)
    return _guess(passes)


def of_trial(job: Job) -> Expected:
    """What to expect of a rough estimate of a job's accuracy."""
    last = next((run for run in _done(TrialJob) if _tries_alike(run, job)), None)
    if last is not None:
        return Expected(last.seconds, last.seconds)
    images, chooses = _calibration_images(job), METHODS[job.method].chooses
    passes: float = 2 * min(TrialJob.images, session.test_count())
    passes += _SCORING * images if chooses else 0
    passes += _projecting_passes(min(images, ROUGH_IMAGES)) if job.compensate or not chooses else 0
    return _guess(passes)


def of_survey(job: Job) -> Expected | None:
    """What to expect of measuring the sensitivities alone; None without images."""
    wanted = session_runs.lasting(SurveyJob.of(job, session.model().model.arch), copy=False)
    last = next((run for run in _done(SurveyJob) if run.job == wanted), None)
    if last is not None:
        return Expected(last.seconds, last.seconds)
    return _guess(_survey_passes(job)) if job.data else None


def _done(kind: type) -> list[Run]:
    return [run for run in session_runs.listed() if run.state == "done" and isinstance(run.job, kind)]


def _alike(run: Run, job: Job, surveyed: bool) -> bool:
    """Whether a run did the same work, whatever the widths that it came to."""
    if run.job is None or not _measures_alike(run.job, job) or run.job.recovery != job.recovery:
        return False
    if job.budget is None or run.job.budget is None:
        return job.budget is run.job.budget
    return run.job.budget.kind == job.budget.kind and (REUSED in runs.log(run.folder)) == surveyed


def _tries_alike(run: Run, job: Job) -> bool:
    """Whether a trial did the same work, whatever the widths; a budget may have its scores at hand."""
    if run.job is None or run.job.images != TrialJob.images:
        return False
    tried: Job = run.job.pruning
    return _measures_alike(tried, job) and (tried.budget is None) == (job.budget is None)


def _measures_alike(other: Job, job: Job) -> bool:
    """Whether two jobs measure the same on the same images before anything is cut."""
    wanted: Job = session_runs.lasting(job, copy=False)
    return other.limit == wanted.limit and other.measured_alike() == wanted.measured_alike()


def _fitting_passes(job: Job, images: int) -> float:
    """What a method does with its calibration images to make a model."""
    return _FITTING * images if METHODS[job.method].chooses else _projecting_passes(images)


def _projecting_passes(images: int) -> float:
    """What computing new weights takes: passes over images, and solves that do not depend on how many."""
    if not images:
        return 0.0
    solves, pairs = _work()
    return _PROJECTING * images + _ALL_PAIRS * pairs * min(images, _SCORED) + _SOLVING * solves


def _work() -> tuple[float, float]:
    """What solves and attention scores of the loaded model go with, each over its MACs."""
    arch = session.model().model.arch
    cubes = sum(widths.mlp**3 for widths in arch.blocks)
    pairs = arch.num_tokens**2 * sum(widths.heads * widths.qk for widths in arch.blocks)
    macs = cost(arch).macs
    return cubes / macs, pairs / macs


def _calibration_images(job: Job) -> int:
    """How many calibration images its method reads, of those that there are."""
    wanted = job.method_options.calibration_images or 0
    return min(wanted, measured.calibration_count(job)) if job.data else wanted


def _survey_passes(job: Job) -> float:
    """What the sensitivities take: half a forward pass for an image and a point of a curve, on average."""
    method, images = METHODS[job.method], _calibration_images(job)
    held = SurveyJob.of(job).images
    if job.data:
        others = 0 if method.chooses else images  # those that it is fitted on measure nothing
        held = min(held, max(1, measured.calibration_count(job) - others))
    passes: float = _SHORTER * held
    if method.chooses or images:  # else no structure is narrowed
        blocks = session.model().model.arch.blocks
        widths = (getattr(block, name) for block in blocks for name in BUDGETED_STRUCTURES)
        passes += sum(min(_RUN, len(measured_widths(width)) - 1) for width in widths) * held / 2
    if method.chooses:
        return passes + _FITTING * images
    solves, pairs = _work()
    curves = _NARROWING * solves + _CURVES_PAIRS * pairs if images else 0.0
    return passes + _PROJECTING * min(images, _NARROWED) + curves


def _guess(passes: float) -> Expected:
    seconds = passes * measured.image_seconds(session.model())
    low, high = (seconds * factor for factor in _SPREAD)
    return Expected(low, high)
