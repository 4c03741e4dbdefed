"""The filters by which ffmpeg makes of a video's pictures those that the VAE takes."""

from __future__ import annotations

from wanvae_app.formats.frame_facts import UNSPECIFIED
from wanvae_app.formats.video_plan import VideoPlan

# Makes one picture of each that holds two moments; the others pass as they are.
DEINTERLACE = "bwdif=mode=send_frame:deint=interlaced"
REFERENCE_WHITE = 203  # cd/m2 of white in HDR: ITU-R BT.2408
LINEAR_PART = 0.9  # of SDR's range; brighter light is compressed into the rest
# BT.2020 with PQ or HLG (ITU-R BT.2100) becomes BT.709. The exact curves are asked for: HLG's approximate one changes
# colours by up to 36 of 255. SDR that was put into HDR by BT.2408 comes back within 11 levels for HLG, and 14 for PQ.
TONE_MAP = (
    "format=yuv444p12le|gbrp12le",  # zscale asks for even sides otherwise
    f"zscale=t=linear:npl={REFERENCE_WHITE}:agamma=0",
    "format=gbrpf32le",
    f"tonemap=mobius:param={LINEAR_PART}:desat=0",
    "zscale=p=bt709:t=bt709:agamma=0",
    "format=gbrp",
)


def filters(plan: VideoPlan) -> str:
    """The plan's steps as ffmpeg's filters.

    An unchanged size is given too, as sizes may change within a file.
    """
    facts, frames, scaled, cropped = plan.header.facts, plan.frames, plan.scaled, plan.cropped
    steps = []
    if facts.is_interlaced:
        steps.append(DEINTERLACE)  # looks at the frames beside each, so it stands before the choice of frames
    if (seek := plan.header.source.seek) is not None:
        steps.append(rf"select=gte(t\,{float(seek.start):.9f})")
    elif frames.start and plan.header.source.pictures is None:
        steps.append(rf"select=gte(n\,{frames.start})")
    if frames.step > 1 and plan.header.source.pictures is None:
        steps.append(rf"select=not(mod(n\,{frames.step}))")
    steps.append(f"scale={scaled.width}:{scaled.height}")
    if facts.hdr:
        missing = {"color_primaries=bt2020": facts.primaries, "colorspace=bt2020nc": facts.matrix}
        if stated := [name for name, number in missing.items() if number == UNSPECIFIED]:
            steps.append(f"setparams={':'.join(stated)}")
        steps += TONE_MAP
    return ",".join([*steps, f"crop={cropped.width}:{cropped.height}"])
