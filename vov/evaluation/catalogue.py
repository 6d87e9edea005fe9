"""Every metric of an evaluation, once: name, label, unit, sense. A new metric is a row here and its code in a suite.

| names | what computes them | needs |
| --- | --- | --- |
| psnr, psnr_frames, ssim, ms_ssim, flicker | `vov.metrics` | |
| warp, warp_original | `warping` | 2 frames |
| lpips_vgg, lpips_alex, dists | `perceptual` | weights (fetch_models.sh) |
| stlpips_vgg, stlpips_alex, ssimulacra2 | `tools` | requirements-metrics.txt |
| jod (ColorVideoVDP) | `tools` | requirements-metrics.txt; seconds a frame on a CPU |
| vmaf, xpsnr | `tools`, by ffmpeg | vmaf: 2 frames |
| fvd, fvd_full | `fvd` | weights, 16 frames |
"""

from __future__ import annotations

from dataclasses import dataclass

from vov import VovError

CURE = "install it with: .venv/bin/pip install -r requirements-metrics.txt"  # of a package that is optional


@dataclass(frozen=True)
class Metric:
    """How tables and plots show one metric.

    Attributes:
        digits: after the decimal point.
        lower: whether lower is better.
        skippable: whether SKIP_METRICS skips it.
    """

    label: str
    digits: int
    unit: str = ""
    lower: bool = False
    skippable: bool = True


METRICS = {
    "psnr": Metric("PSNR", 2, "dB, from the mean MSE", skippable=False),
    "psnr_frames": Metric("PSNR/frame", 2, "dB, mean of the frames' PSNR", skippable=False),
    "ssim": Metric("SSIM", 4),
    "ms_ssim": Metric("MS-SSIM", 4),
    "lpips_vgg": Metric("LPIPS-VGG", 4, lower=True),
    "lpips_alex": Metric("LPIPS-Alex", 4, lower=True),
    "dists": Metric("DISTS", 4, lower=True),
    "stlpips_vgg": Metric("ST-LPIPS-VGG", 4, "shift-tolerant; not comparable with LPIPS", lower=True),
    "stlpips_alex": Metric("ST-LPIPS-Alex", 4, "shift-tolerant; not comparable with LPIPS", lower=True),
    "ssimulacra2": Metric("SSIMULACRA2", 2, "100 at most; 70 high, 50 medium, 30 low quality"),
    "jod": Metric("ColorVideoVDP", 3, "JOD, 10 at most"),
    "vmaf": Metric("VMAF", 2, "0 to 100, model vmaf_v0.6.1"),
    "xpsnr": Metric("XPSNR-Y", 2, "dB, luma of BT.709 4:2:0"),
    "fvd": Metric("FVD", 1, lower=True, skippable=False),
    "fvd_full": Metric("FVD full", 1, lower=True, skippable=False),
    "flicker": Metric("flicker", 2, "8-bit levels", lower=True, skippable=False),
    "warp": Metric("warp error", 2, "8-bit levels", lower=True),
    "warp_original": Metric("… of the original", 2, "8-bit levels"),
}
FVD = ("fvd", "fvd_full")
ALWAYS = ("psnr", "psnr_frames", "flicker")
NOT_ASKED = "not among METRICS"
WITHOUT_CURVE = ("psnr_frames", "warp_original", "fvd_full")  # not drawn against the rate


def left_out(chosen: str, skip_metrics: bool, skip_fvd: bool, images: bool) -> dict[str, str]:
    """{metric: why it is not computed}, from METRICS ("all", or names), SKIP_METRICS, SKIP_FVD and the tree.

    Raises VovError for a name that is no metric. PSNR and flicker are always computed.
    """
    names = list(METRICS) if chosen == "all" else [name.strip() for name in chosen.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(METRICS)):
        raise VovError(f"`metrics`={chosen}: {unknown[0]!r} is not one of all, {', '.join(METRICS)}")
    reasons = dict.fromkeys(set(METRICS) - set(names), NOT_ASKED)
    if skip_metrics:
        reasons |= dict.fromkeys((name for name in METRICS if METRICS[name].skippable), "skipped by SKIP_METRICS")
    if skip_fvd or images:
        reasons |= dict.fromkeys(FVD, "needs at least 2 frames" if images else "skipped by SKIP_FVD")
    return {name: reasons[name] for name in METRICS if name in reasons and name not in ALWAYS}


def only(*names: str) -> dict[str, str]:
    """What `left_out` gives for METRICS with these names."""
    return left_out(",".join(names), False, False, False)
