"""How long a pruning run takes: as long as the last one of its kind, or a guess from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from app import wording
from app.state import measured, session, session_runs
from pruning import runs
from pruning.budget import BUDGETED_STRUCTURES, measured_widths
from pruning.jobs import ROUGH_IMAGES, Job, SurveyJob, TrialJob
from pruning.methods import METHODS
from pruning.runs import Run

REUSED = "Sensitivities were measured before"  # what the log of a run says that did not measure them
# What a guess counts with, as seen with the demo and DeiT-Tiny [ours]
_FITTING = 15  # forward passes for a calibration image of a method that reads them
_SCORING = 4  # the same for a trial that only scores
_ROUGH = 30  # the same for a trial that computes new weights, on few images
_NARROWING = 0.2  # seconds for a point of a sensitivity curve of a method that computes new weights
_RUN = 2.5  # points of a curve for which the network is run; the others are predicted
_SHORTER = 1700  # forward passes for schedules of merging and halves of blocks, counted for twelve blocks
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
    tested = 2 * session.test_count() * measured.image_seconds(session.model())
    survey = 0.0 if surveyed or job.budget is None else _survey_seconds(job)
    return _guess(_fitting_seconds(job) + tested + survey)


def of_trial(job: Job) -> Expected:
    """What to expect of a rough estimate of a job's accuracy."""
    last = next((run for run in _done(TrialJob) if _tries_alike(run, job)), None)
    if last is not None:
        return Expected(last.seconds, last.seconds)
    images, chooses = _calibration_images(job), METHODS[job.method].chooses
    passes = 2 * min(TrialJob.images, session.test_count())
    passes += _SCORING * images if chooses else 0
    passes += _ROUGH * min(images, ROUGH_IMAGES) if job.compensate or not chooses else 0
    return _guess(passes * measured.image_seconds(session.model()))


def of_survey(job: Job) -> Expected | None:
    """What to expect of measuring the sensitivities alone; None without images."""
    wanted = session_runs.lasting(SurveyJob.of(job, session.model().model.arch), copy=False)
    last = next((run for run in _done(SurveyJob) if run.job == wanted), None)
    if last is not None:
        return Expected(last.seconds, last.seconds)
    return _guess(_survey_seconds(job)) if job.data else None


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


def _fitting_seconds(job: Job) -> float:
    return _FITTING * _calibration_images(job) * measured.image_seconds(session.model())


def _calibration_images(job: Job) -> int:
    """How many calibration images its method reads, of those that there are."""
    wanted = job.method_options.calibration_images or 0
    return min(wanted, measured.calibration_count(job)) if job.data else wanted


def _survey_seconds(job: Job) -> float:
    """What the sensitivities take: half a forward pass for an image and a point of a curve, on average."""
    blocks = session.model().model.arch.blocks
    widths = (getattr(block, name) for block in blocks for name in BUDGETED_STRUCTURES)
    points = [len(measured_widths(width)) - 1 for width in widths]
    narrowing = 0.0 if METHODS[job.method].chooses else _NARROWING
    passes = sum(min(_RUN, one) for one in points) * SurveyJob.of(job).images / 2 + _SHORTER
    seconds = passes * measured.image_seconds(session.model())
    return seconds + sum(points) * narrowing + _fitting_seconds(job)


def _guess(seconds: float) -> Expected:
    low, high = (seconds * factor for factor in _SPREAD)
    return Expected(low, high)
