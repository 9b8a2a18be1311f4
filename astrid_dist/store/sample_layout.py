"""What a sample product holds, and how its samples are cut: stamps with their truth, for training.

A group ``<survey>/<split>`` counts `sample`, `visit` (1, or more for sequences) and `plane`; the pixels of a
stamp are (v, u), as those of a PSF are: x and y are where it lies on the field's grid. A task writes whole
shards of every variable but the host table, which is one chunk and the driver's.
"""

from collections.abc import Mapping
from typing import Any

#: Planes of a stamp, in order.
PLANES = ("science", "template", "difference", "score")
#: Side of a stamp, pixels.
STAMP = 63
#: Samples that share one host and are drawn together: shards are whole groups of them.
SAMPLE_GROUP = 256
#: Sample-visits in a shard and in a chunk, where nothing else is asked for.
VISITS_PER_SHARD, VISITS_PER_CHUNK = 4096, 32

#: Columns that products made before there were samples of alerts lack.
LATER = ("labeller", "survey_score", "alert", "fold")

#: Tables of: name | dtype | unit | long name, by dimensions.
ROWS = {
    "sample visit plane v u": """
        pixels | f2 | 1 | stamps in noise sigmas, rounded to 1/8; the middle pixel is [31, 31]
    """,
    "sample visit v u": """
        target | u2 | | classes whose own pattern covers the pixel
    """,
    "sample visit": """
        x | f8 | pixel | column of the object on the field's grid
        y | f8 | pixel | row of the object on the field's grid
        offset_x | f4 | pixel | object minus middle pixel of the stamp, columns
        offset_y | f4 | pixel | object minus middle pixel of the stamp, rows
        flux | f4 | electron | flux put in, on the reference's scale, signed
        snr | f4 | 1 | true signal to noise, its own shot noise included
        peak | f4 | 1 | S_corr of largest size within two pixels, signed
        band | i1 | | position in the group's attribute bands
        mjd | f8 | d | mid-exposure, modified Julian date, UTC
        time | i8 | microseconds since 1970-01-01 | mid-exposure, UTC
        sigma_n | f4 | electron | noise by which the science plane was divided
        sigma_r | f4 | electron | noise by which the template plane was divided
        sigma_d | f4 | electron | noise by which the difference plane was divided
        fwhm_n | f4 | pixel | full width at half maximum of the science PSF
        fwhm_r | f4 | pixel | full width at half maximum of the reference PSF
        flux_ratio | f4 | 1 | flux scale of science over reference
        mag | f4 | mag | AB magnitude of its total light
    """,
    "sample": """
        class | i1 | | class of the taxonomy
        kind | i2 | | population or artifact
        origin | i1 | | where the sample comes from
        environment | i1 | | what it was put on
        label | f4 | 1 | soft label: 1 real, 0 bogus
        weight | f4 | 1 | weight in training
        injectable | bool | | whether it could be put in, and counts
        reason | i1 | | why it could not be put in
        host_row | i4 | | row of the host table
        item | i8 | | key of its random draws within the group
        stratum | i2 | | row of the group's attribute strata: what it was asked to be
        labeller | i1 | | who says whether it is real
        survey_score | f4 | 1 | what a model of the survey says; to agree with it is not to be right
        alert | i8 | | candid of the alert it was cut from
        fold | i1 | | part of all fields that it lies in, for models trained on the other parts
    """,
    "host visit": """
        host_epoch_id | string | | epoch that the stamps were cut from
        host_epoch | i4 | | index of that epoch in the survey
        host_mjd | f8 | d | mid-exposure of that epoch, modified Julian date, UTC
    """,
    "host": """
        host_field | string | | field
        host_x | f4 | pixel | column of the middle of the host tile
        host_y | f4 | pixel | row of the middle of the host tile
        host_cell | i8 | | sky cell, one side of every split
        host_night | i4 | | night, one side of every split
        host_quality | f4 | 1 | quality of the subtraction, 0 to 1
        host_groups | i4 | 1 | groups of samples made from it
    """,
}


def cuts(sizes: Mapping[str, int]) -> dict[str, int]:
    """Samples per shard and per chunk for stamps of so many visits.

    A shard has whole groups of samples and about 4096 sample-visits (64 MiB encoded at 16 kB each), a chunk
    about 32 of them.
    """
    visits = max(1, sizes.get("visit", 1))
    groups = max(1, VISITS_PER_SHARD // visits // SAMPLE_GROUP)
    chunk = 1 << (max(1, VISITS_PER_CHUNK // visits).bit_length() - 1)  # a power of two divides the group
    return {"sample_shard": groups * SAMPLE_GROUP, "sample_chunk": chunk}


def wrong(sizes: Mapping[str, int], attributes: Mapping[str, Any]) -> str:
    """What is wrong with the group asked for; empty if nothing is."""
    if missing := [name for name in ("survey", "split", "bands", "planes") if not attributes.get(name)]:
        return f"a group of samples needs the attributes {missing}"
    if len(attributes["planes"]) != sizes["plane"]:
        return f"{sizes['plane']} planes are asked for, {list(attributes['planes'])} named"
    shard, chunk = sizes["sample_shard"], sizes["sample_chunk"]
    if shard < 1 or shard % SAMPLE_GROUP:
        return f"sample_shard is {shard}: it must be a multiple of {SAMPLE_GROUP}, whole groups of samples"
    if chunk < 1 or shard % chunk:
        return f"sample_chunk is {chunk}: it must divide sample_shard, {shard}"
    return ""
