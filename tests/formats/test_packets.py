"""Alert packets: every schema, codec and container; what is damaged is set aside and the rest goes on."""

import gzip
import io
import tarfile

import fastavro
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astrid_dist.errors import ConfigError
from astrid_dist.formats.packet_files import packet_sources
from astrid_dist.formats.packets import Packet, Refused, packet_of, read_packets, read_source
from tests.made_packets import NAMES, SIDE, avro, fits_bytes, image, lsst, write, ztf

#: Set: packets, objects, drb < 0.1, drb < 0.5, drb > 0.9, known asteroids.
SETS = {
    "ztf_fink_topics_2023_2025": (817, 769, 29, 53, 701, 204),
    "ztf_fink_local_20200101": (50, 50, 31, 39, 6, 0),
    "ztf_fink_parquet": (175, 155, 11, 23, 124, 1),
    "ztf_kowalski": (36, 35, 0, 2, 33, 15),
}


def good(paths):
    return [one for one in read_packets([str(path) for path in paths]) if isinstance(one, Packet)]


def reasons(path):
    return [one.reason for one in read_packets([str(path)]) if isinstance(one, Refused)]


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if "topics" in one else ()) for one in SETS]
)
def test_every_real_ztf_packet_is_read(realdata, name):
    packets = list(read_packets([str(realdata / name)]))
    assert not [one for one in packets if isinstance(one, Refused)]
    score = np.array([one.drb for one in packets], float)
    known = sum(one.ssdistnr is not None and one.ssdistnr < 5 for one in packets)
    counted = (
        len(packets),
        len({one.object_id for one in packets}),
        *(int((score < x).sum()) for x in (0.1, 0.5)),
    )
    assert (*counted, int((score > 0.9).sum()), known) == SETS[name]
    assert len({one.candid for one in packets}) == len(packets)
    for one in packets:
        assert one.survey == "ztf"
        if one.source.endswith(".avro"):  # named by the float that the manifest has, which lost digits
            assert int(float(one.candid)) == int(one.source.rpartition("_")[2].removesuffix(".avro"))
        x, y = one.place
        near = one.difference.image[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        peak = near.flat[np.nanargmax(np.abs(near))] if np.isfinite(near).any() else 0
        assert peak == 0 or (peak > 0) == one.positive
        assert not np.isinf(one.template.image).any()
        assert np.nanmax(np.abs(one.science.image)) < 1e6


@pytest.mark.realdata
def test_real_packets_of_the_lsst_pipelines_have_variance_and_psf(realdata):
    packets = list(read_packets([str(realdata / "hsc_cosmos_lsstpipe")]))
    assert len(packets) == 188
    assert len({one.candid for one in packets}) == 188
    assert np.mean([(one.snr > 0) == one.positive for one in packets]) > 0.8  # dipoles have both signs
    for one in packets:
        assert one.survey == "lsst"
        assert one.band == "g"
        assert one.reliability is not None
        for cutout in (one.science, one.template, one.difference):
            assert cutout.variance.shape == cutout.image.shape
            assert cutout.psf.sum() == pytest.approx(1, abs=0.02)
        assert 3 < one.fwhm < 8  # 0.6 to 1 arcsec at 0.168 arcsec a pixel


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    candid=st.integers(10**15, 2**63 - 1),
    side=st.integers(5, 80),
    positive=st.sampled_from(["t", "1", "f", "0"]),
    form=st.sampled_from(["null", "deflate", "snappy", "parquet"]),
    holes=st.integers(0, 10),
)
def test_what_is_sent_is_read_to_the_last_digit(tmp_path, candid, side, positive, form, holes):
    images = [image(seed, 50, 0, side) for seed in range(3)]
    for one in images:
        one.flat[:holes] = np.nan
    record = ztf(candid, images, isdiffpos=positive, xpos=None, ypos=None)
    path = tmp_path / ("packet.parquet" if form == "parquet" else "packet.avro")
    (packet,) = good([write(path, [record], form)])
    assert packet.candid == candid
    assert packet.object_id == f"ZTF{candid}"
    up = positive in ("t", "1")
    assert packet.positive == up
    assert (packet.snr > 0) == up
    assert packet.place == (side // 2, side // 2)
    np.testing.assert_array_equal(packet.science.image, images[0])
    np.testing.assert_array_equal(packet.template.image, images[1])
    np.testing.assert_array_equal(packet.difference.image, images[2] if up else -images[2])
    assert packet.science.image.dtype == np.float32


def test_what_an_old_schema_lacks_is_none():
    record = ztf(1)
    for name in ("drb", "scorr", "fwhm", "magzpsci", "xpos", "pid", "field"):
        del record["candidate"][name]
    packet = packet_of("here", record)
    assert isinstance(packet, Packet)
    assert packet.drb is None
    assert packet.snr is None
    assert packet.field is None
    assert packet.rb == pytest.approx(0.9)
    assert np.isnan(packet.fwhm)
    assert np.isnan(packet.magzpsci)
    assert packet.ssdistnr is None  # -999 is none near


@pytest.mark.parametrize(("position", "rows", "place"), [(12.9, 44, 12), (3058.6, 53, 31), (1500, 63, 31)])
def test_at_the_border_of_the_chip_the_alert_is_counted_from_the_side_that_is_there(position, rows, place):
    images = [image(seed)[:rows] for seed in range(3)]
    packet = packet_of("here", ztf(1, images, ypos=position))
    assert isinstance(packet, Packet)
    assert packet.place == (31, place)


def test_the_largest_float_is_no_data():
    images = [image(seed) for seed in range(3)]
    images[1][:5] = np.finfo(np.float32).max
    packet = packet_of("here", ztf(1, images))
    assert isinstance(packet, Packet)
    assert np.isnan(packet.template.image[:5]).all()
    assert np.isfinite(packet.template.image[5:]).all()


def test_the_difference_of_an_lsst_packet_has_its_own_sign_and_its_place_comes_from_the_wcs():
    images = [image(1), image(2), -image(3, 100, 0)]
    packet = packet_of("here", lsst(2**60 + 1, images, (30.8, 29.2)))
    assert isinstance(packet, Packet)
    assert packet.candid == 2**60 + 1
    assert packet.object_id == str(2**60 + 2)
    assert packet.place == (31, 29)
    assert not packet.positive
    assert packet.snr == -10
    assert packet.reliability == 0.25
    np.testing.assert_array_equal(packet.difference.image, images[2])
    assert packet.difference.psf.shape == (21, 19)
    assert packet.difference.variance.shape == (SIDE, SIDE)


def test_files_folders_patterns_and_archives_tell_the_same(tmp_path):
    folder = tmp_path / "alerts"
    folder.mkdir()
    for candid in (1, 2, 3):
        write(folder / f"{candid}.avro", [ztf(candid)])
    (folder / "manifest.csv").write_text("no packet")
    archives = []
    for kind in ("", "gz", "xz"):
        archives.append(tmp_path / f"alerts.tar.{kind}".rstrip("."))
        with tarfile.open(archives[-1], f"w:{kind}") as archive:
            archive.add(folder, "alerts")
    for paths in ([folder], [folder / "*.avro"], sorted(folder.glob("*.avro")), *([one] for one in archives)):
        assert sorted(one.candid for one in good(paths)) == [1, 2, 3]
    assert good([archives[1]])[0].source.startswith(f"{archives[1]}:alerts/")
    assert packet_sources([str(folder), str(folder / "1.avro")]) == packet_sources([str(folder)])


def test_numbers_of_a_file_find_its_packets_again(tmp_path):
    path = write(tmp_path / "four.avro", [ztf(candid) for candid in (5, 6, 7, 8)])
    assert [(n, one.candid) for n, one in read_source(str(path), {3, 1})] == [(1, 6), (3, 8)]


def without(name):
    record = ztf(1)
    record[f"cutout{name}"] = None
    return record


def damaged(content):
    record = ztf(1)
    record["cutoutTemplate"]["stampData"] = content
    return record


def of_shapes(*sides):
    return ztf(1, [image(seed, side=side) for seed, side in enumerate(sides)])


PACKED = gzip.compress(fits_bytes(image(1)))
BAD = {
    "no difference": (without("Difference"), "cutoutDifference is missing"),
    "gzip cut short": (damaged(PACKED[: len(PACKED) // 2]), "cut short"),
    "gzip damaged": (damaged(PACKED[:100] + b"\0" * 50 + PACKED[150:]), "cutoutTemplate cannot be read"),
    "too large": (damaged(gzip.compress(bytes(17 * 2**20))), "more than an image"),
    "no FITS": (damaged(gzip.compress(b"hello")), "cutoutTemplate cannot be read"),
    "FITS cut short": (damaged(fits_bytes(image(1))[:9000]), "cutoutTemplate cannot be read"),
    "shapes differ": (of_shapes(63, 63, 61), "must be the same"),
    "no sign": (ztf(1, isdiffpos="x"), "isdiffpos is 'x'"),
    "no time": (ztf(1, jd=float("nan")), "jd is nan"),
    "no place": (ztf(1, ra=None), "ra is None"),
    "float candid": ({**ztf(1), "candid": 1e18}, "must be an integer"),
    "no candidate": ({"objectId": "ZTF1"}, "neither candidate nor diaSource"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_packet_that_cannot_be_used_says_why(what):
    record, said = BAD[what]
    refused = packet_of("here", record)
    assert isinstance(refused, Refused)
    assert said in refused.reason


def test_a_bad_packet_does_not_hold_up_those_after_it(tmp_path):
    (tmp_path / "a.avro").write_bytes(avro([ztf(1)]))
    (tmp_path / "b.avro").write_bytes(avro([ztf(2), without("Science"), ztf(3)], schema=None))
    (tmp_path / "c.avro").write_bytes(b"")
    (tmp_path / "d.avro").write_bytes(b"not avro at all")
    (tmp_path / "e.parquet").write_bytes(b"PAR1 but nothing behind it")
    other = {"type": "record", "name": "other", "fields": [{"name": "a", "type": "int"}]}
    (tmp_path / "f.avro").write_bytes(avro([{"a": 1}], schema=other))
    (tmp_path / "g.tar.gz").write_bytes(gzip.compress(b"no archive"))
    assert [one.candid for one in good([tmp_path])] == [1, 2, 3]
    said = reasons(tmp_path)
    assert len(said) == 6
    for words in ("Science is missing", "empty", "neither Avro", "read further", "neither candidate"):
        assert any(words in one for one in said)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
def test_of_a_file_cut_short_the_whole_packets_are_read(tmp_path, kept):
    content = avro([ztf(candid) for candid in range(1, 7)])
    path = tmp_path / "short.avro"
    path.write_bytes(content[: int(len(content) * kept)])
    assert [one.candid for one in good([path])] == list(range(1, int(6 * kept) + 1))
    assert "cannot be read further" in reasons(path)[0]


def test_of_an_archive_cut_short_the_whole_members_are_read(tmp_path):
    path = tmp_path / "night.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for candid in (1, 2, 3, 4):
            content = avro([ztf(candid)])
            member = tarfile.TarInfo(f"{candid}.avro")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.7 * len(whole))])
    assert [one.candid for one in good([path])] == [1, 2]
    assert "cannot be read further" in reasons(path)[-1]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_stops_the_reader(tmp_path, data):
    content = bytearray(avro([ztf(1, [image(seed, side=9) for seed in range(3)])]))
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.avro"
    path.write_bytes(bytes(content))
    list(read_packets([str(path)]))


def test_a_path_that_stands_for_nothing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="stands for no alert packets"):
        list(read_packets([str(tmp_path / "none.avro")]))


def test_what_is_written_here_is_what_fastavro_reads(tmp_path):
    (record,) = fastavro.reader(io.BytesIO(avro([ztf(7)])))
    assert record["candid"] == 7
    assert set(record) == {
        "objectId",
        "candid",
        "candidate",
        *(f"cutout{n}" for n in NAMES),
    }
