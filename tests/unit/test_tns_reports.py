"""Reports to TNS: what is in them, and that an object is reported once, whatever dies or fails in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from astropy.time import Time

from alerce_spark import surveys
from alerce_spark.cli import main
from alerce_spark.config import ConfigError, TnsSettings
from alerce_spark.crossmatch.catalogs import load as load_catalogs
from alerce_spark.errors import InputError
from alerce_spark.lake import write
from alerce_spark.lake.catalogs import import_catalog
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.sky import healpix
from alerce_spark.tns import catalog, draft, hosts, reports, sending
from alerce_spark.tns.hermes import Hermes
from alerce_spark.tns.http import Server, TnsError
from alerce_spark.tns.reports import APPROVED, DRAFTED, EXISTS, LOST, NAMED, REJECTED, SENDING, SENT, UNKNOWN
from alerce_spark.tns.sending import Sender
from alerce_spark.tns.server import Tns
from tests import small_lake
from tests.fake_tns import GROUP, KEY, TOKEN, FakeTns, public_csv, public_zip

ROOT = Path(__file__).resolve().parents[2]
WHO = "A. Person"
CONTENT = {
    "ra": {"value": "10.0", "units": "arcsec"},
    "dec": {"value": "-5.0", "units": "arcsec"},
    "reporting_group_id": str(GROUP),
    "discovery_data_source_id": "48",
    "reporter": WHO,
    "discovery_datetime": "2026-11-30 05:00:00.000",
    "at_type": "1",
    "remarks": "",
    "non_detection": {"archiveid": "0", "archival_remarks": "none"},
    "photometry": {
        "photometry_group": {"0": {"obsdate": "2026-11-30 05:00:00.000", "flux": "19", "filter_value": "110"}}
    },
}


class _Killed(BaseException):
    """The process is gone: nothing after it runs."""


@pytest.fixture
def fake() -> Iterator[FakeTns]:
    with FakeTns() as server:
        yield server


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake for reports of different objects."""
    path = str(tmp_path_factory.mktemp("tns") / "lake")
    write.create(path, 0, sync=False)
    return path


def settings(fake: FakeTns, **more: Any) -> TnsSettings:
    who = {"bot_id": 7, "bot_name": "bot", "api_key": KEY, "reporting_group": GROUP, "data_source": 48}
    ways = {"url": fake.url, "hermes_url": fake.url, "hermes_token": TOKEN, "timeout_s": 5, "reporters": WHO}
    return TnsSettings(**{**who, **ways, **more})


def sender(lake: str, fake: FakeTns, way: str = "tns", *, wait_s: float = 0.0, **more: Any) -> Sender:
    chosen = settings(fake, **more)
    hermes = Hermes(chosen) if way == "hermes" else None
    return Sender(lake, chosen, Tns(chosen), hermes, lambda: None, "test", wait_s, 0.01)


def approved(lake: str, oid: str, place: float = 10.0) -> None:
    content = CONTENT | {"internal_name": oid, "ra": {"value": str(place), "units": "arcsec"}}
    reports.store_draft(lake, oid, "bot", content, WHO)
    reports.approve(lake, oid, "bot", WHO)


def states(lake: str, oid: str) -> list[str]:
    return [one.state for one in reports.steps(lake, oid)]


def test_a_report_is_named_once_and_then_left_alone(lake: str, fake: FakeTns) -> None:
    fake.delay = 2
    approved(lake, "ZTF26named")
    done = sender(lake, fake, wait_s=5).advance("ZTF26named")
    assert (done.state, done.name) == (NAMED, "AT20260000")
    assert states(lake, "ZTF26named") == [DRAFTED, APPROVED, SENDING, SENT, NAMED]
    assert [one.who for one in reports.steps(lake, "ZTF26named")] == [WHO, WHO, "test", "test", "test"]
    assert sender(lake, fake).advance("ZTF26named") == done
    for again in (
        lambda: reports.store_draft(lake, "ZTF26named", "bot", CONTENT, WHO),
        lambda: reports.approve(lake, "ZTF26named", "bot", WHO),
    ):
        with pytest.raises(InputError, match="named as AT20260000 since"):
            again()
    assert fake.counted() == {"ZTF26named": 1}


def test_only_an_approved_report_goes_out(lake: str, fake: FakeTns) -> None:
    reports.store_draft(lake, "ZTF26draft", "bot", CONTENT, WHO)
    assert sender(lake, fake).advance("ZTF26draft").state == DRAFTED
    for nobody in ("", "  "):
        with pytest.raises(InputError, match="who approves"):
            reports.approve(lake, "ZTF26draft", "bot", nobody)
    with pytest.raises(InputError, match="no report of ZTF26none"):
        sender(lake, fake).advance("ZTF26none")
    assert fake.asked == []


@pytest.mark.parametrize("missing", ["non_detection", "reporter"])
def test_an_object_that_tns_has_exists_and_a_bad_report_is_rejected(lake: str, fake: FakeTns, missing: str) -> None:
    other = {"objid": 1, "name_prefix": "SN", "name": "2026abc", "ra": 10.0, "declination": -5.0 + 2 / 3600}
    fake.objects.append(other | {"internal_names": "ATLAS26x", "reporting_groupid": 1})
    exists, rejected = f"ZTF26exists{missing}", f"ZTF26bad{missing}"
    approved(lake, exists)
    done = sender(lake, fake, wait_s=5).advance(exists)
    assert (done.state, done.name) == (EXISTS, "SN2026abc")
    bad = {k: v for k, v in CONTENT.items() if k != missing} | {"internal_name": rejected}
    reports.store_draft(lake, rejected, "bot", bad, WHO)
    reports.approve(lake, rejected, "bot", WHO)
    done = sender(lake, fake, wait_s=5).advance(rejected)
    assert done.state == REJECTED
    assert missing in str(done.note)
    # A person mends it, and it goes out once more.
    approved(lake, rejected, place=50.0)
    assert sender(lake, fake, wait_s=5).advance(rejected).state == NAMED
    assert fake.counted() == {exists: 1, rejected: 2}


def test_a_report_whose_answer_was_lost_is_found_and_not_sent_again(lake: str, fake: FakeTns) -> None:
    fake.gateway, fake.delay = 1, 3
    approved(lake, "ZTF26gateway")
    first = sender(lake, fake).advance("ZTF26gateway")
    assert first.state == UNKNOWN
    assert "504" in str(first.note)
    with pytest.raises(InputError, match="an object is reported once"):
        approved(lake, "ZTF26gateway")
    done = sender(lake, fake, wait_s=5).advance("ZTF26gateway")
    assert (done.state, done.name) == (NAMED, "AT20260000")
    assert fake.counted() == {"ZTF26gateway": 1}


def test_another_group_may_have_reported_under_the_same_name(lake: str, fake: FakeTns) -> None:
    fake.gateway = fake.lose = 1
    approved(lake, "ZTF26shared")
    assert sender(lake, fake).advance("ZTF26shared").state == UNKNOWN
    other = {"objid": 1, "name_prefix": "AT", "name": "2026xyz", "ra": 10.0, "declination": -5.0}
    fake.objects.append(other | {"internal_names": "Gaia26a, ZTF26shared", "reporting_groupid": GROUP + 1})
    done = sender(lake, fake).advance("ZTF26shared")
    assert (done.state, done.name) == (EXISTS, "AT2026xyz")


def test_a_report_that_tns_lost_is_given_up_after_a_time_and_a_person_begins_again(lake: str, fake: FakeTns) -> None:
    fake.lose = 1
    approved(lake, "ZTF26lost")
    assert sender(lake, fake).advance("ZTF26lost").state == SENT
    assert sender(lake, fake).advance("ZTF26lost").state == SENT
    assert sender(lake, fake, settle_s=0).advance("ZTF26lost").state == LOST
    assert sender(lake, fake, settle_s=0).advance("ZTF26lost").state == LOST
    assert fake.counted() == {"ZTF26lost": 1}
    approved(lake, "ZTF26lost")
    assert sender(lake, fake, wait_s=5).advance("ZTF26lost").state == NAMED


def test_what_was_certainly_not_taken_stays_approved(lake: str, fake: FakeTns) -> None:
    approved(lake, "ZTF26later")
    fake.busy, fake.reset = 1, "900"
    with pytest.raises(TnsError, match="900 s"):
        sender(lake, fake, patience_s=1).advance("ZTF26later")
    assert states(lake, "ZTF26later")[-2:] == [SENDING, APPROVED]
    with pytest.raises(TnsError, match="refuses us"):
        sender(lake, fake, api_key="wrong").advance("ZTF26later")
    with pytest.raises(TnsError, match="no answer"):
        sender(lake, fake, url="http://127.0.0.1:9").advance("ZTF26later")
    assert states(lake, "ZTF26later")[-1] == APPROVED
    fake.busy, fake.reset = 1, "0.05"
    assert sender(lake, fake, wait_s=5).advance("ZTF26later").state == NAMED
    assert fake.counted() == {"ZTF26later": 1}


def test_a_lake_that_forgot_its_reports_finds_them_at_tns(tmp_path: Path, fake: FakeTns) -> None:
    for folder in ("first", "again"):
        write.create(str(tmp_path / folder), 0, sync=False)
        approved(str(tmp_path / folder), "ZTF26twice")
        done = sender(str(tmp_path / folder), fake, wait_s=5).advance("ZTF26twice")
        assert (done.state, done.name) == (NAMED, "AT20260000")
    assert fake.counted() == {"ZTF26twice": 1}


def test_of_senders_at_the_same_time_one_sends(lake: str, fake: FakeTns) -> None:
    approved(lake, "ZTF26race")
    start = threading.Barrier(4)
    ended: list[str] = []

    def run() -> None:
        mine = sender(lake, fake)
        report = reports.needed(lake, "ZTF26race", "bot")
        start.wait()
        try:
            ended.append(mine._next(report).state)
        except reports.Overtaken:
            ended.append("overtaken")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.counted() == {"ZTF26race": 1}
    assert sorted(ended) == ["overtaken", "overtaken", "overtaken", SENT]


def _dying_at(patch: pytest.MonkeyPatch, event: int) -> list[str]:
    """Lets the process die before its `event`-th commit or request; returns what it began."""
    seen: list[str] = []

    def dies(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) == event:
                raise _Killed
            return function(*arguments, **options)

        return wrapped

    patch.setattr(write, "commit", dies("commit", write.commit))
    patch.setattr(Server, "post", dies("request", Server.post))
    return seen


@pytest.mark.parametrize(
    ("way", "switch"),
    [("tns", ""), ("tns", "gateway"), ("tns", "lose"), ("tns", "busy"), ("hermes", ""), ("hermes", "gateway")],
    ids=lambda name: name or "answered",
)
def test_death_at_any_step_never_reports_twice(
    lake: str, fake: FakeTns, monkeypatch: pytest.MonkeyPatch, way: str, switch: str
) -> None:
    deaths = 0
    fake.delay = 4  # it is not to be found at once
    for event in range(1, 40):
        oid = f"ZTF26{way}{switch}{event}"
        approved(lake, oid, place=float(event))
        if switch:
            setattr(fake, switch, 1)
        with monkeypatch.context() as patch:
            seen = _dying_at(patch, event)
            try:
                sender(lake, fake, way, wait_s=0.03).advance(oid)
            except _Killed:
                deaths += 1
        sender(lake, fake, way).advance(oid)
        times = fake.counted()[oid] + fake.handed_on()[oid]
        assert times <= 1, (seen, states(lake, oid))
        arrives = times == 1 and switch != "lose"
        patience = {"wait_s": 30.0} if arrives else {"settle_s": 0.0}
        done = sender(lake, fake, way, **patience).advance(oid)
        assert done.state == (NAMED if arrives else LOST), (seen, states(lake, oid))
        assert fake.counted()[oid] + fake.handed_on()[oid] == times
        if len(seen) < event:
            break
    assert deaths >= 5


def _environment(fake: FakeTns) -> dict[str, str]:
    own = {k.upper(): str(v) for k, v in settings(fake).model_dump(exclude={"api_key", "hermes_token"}).items()}
    own |= {"API_KEY": KEY, "HERMES_TOKEN": TOKEN}
    return {**os.environ, **{f"ALERCE_TNS__{k}": v for k, v in own.items()}, "ALERCE_LAKE__LEASE_TIMEOUT_S": "1"}


def test_a_process_killed_while_tns_is_silent_leaves_a_report_that_is_found(lake: str, fake: FakeTns) -> None:
    approved(lake, "ZTF26killed")
    fake.stall = threading.Event()
    command = [sys.executable, "-c", "from alerce_spark.cli import main; main()", "tns", "send", "ZTF26killed"]
    environment = _environment(fake)
    with subprocess.Popen([*command, "--lake", lake], env=environment, stdout=subprocess.PIPE) as process:
        assert fake.arrived.wait(60)
        process.send_signal(signal.SIGKILL)
    assert states(lake, "ZTF26killed")[-1] == SENDING
    fake.stall.set()
    fake.stall = None
    done = subprocess.run(
        [*command, "--lake", lake], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    # The lease of the dead one may still be held, and is then told.
    while done.returncode == 2 and "is held by" in done.stderr:
        done = subprocess.run([*command, "--lake", lake], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "named AT20260000" in done.stdout
    assert fake.counted() == {"ZTF26killed": 1}
    assert states(lake, "ZTF26killed") == [DRAFTED, APPROVED, SENDING, UNKNOWN, NAMED]
    assert not any(secret in done.stdout + done.stderr for secret in (KEY, TOKEN))


def test_many_steps_lie_in_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = str(tmp_path / "lake")
    write.create(lake, 0, sync=False)
    monkeypatch.setattr(reports, "_MOST_FILES", 4)
    for k in range(6):
        approved(lake, f"ZTF26{k}")
    assert len(table_of(lake, "tns_reports").live().files) <= 4
    assert [one.state for one in reports.standing(lake)] == [APPROVED] * 6
    assert len(reports.steps(lake)) == 12


def test_a_hermes_message_has_the_facts_of_the_report(lake: str, fake: FakeTns) -> None:
    approved(lake, "ZTF26hermes")
    done = sender(lake, fake, "hermes", reporting_group_name="ALeRCE", data_source_name="ZTF").advance("ZTF26hermes")
    assert (done.state, done.via, done.report_id) == (NAMED, "hermes", "message-1")
    (message,) = fake.messages
    (target,) = message["data"]["targets"]
    assert (target["name"], target["ra"], target["discovery_info"]["reporting_group"]) == (
        *("ZTF26hermes", "10.0", "ALeRCE"),
    )
    (point,) = message["data"]["photometry"]
    assert (point["brightness"], point["bandpass"], point["target_name"]) == (19.0, "g", "ZTF26hermes")
    assert message["submit_to_tns"] is True


def _rows(table: str, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows with a value in every column that needs one."""
    blank = {"boolean": False, "string": "", "double": 0.0, "float": 0.0, "int": 0, "long": 0}
    needed = {c.name: blank[c.type] for c in TABLES[table].columns if c.required}
    return [needed | {"survey": "ztf", **row} for row in rows]


FIRST = 61374.234375
OBJECTS = {
    # Detections as (days after FIRST, band, magnitude, sign), limits as (days, band, limit).
    "ZTF26aa": (
        [(2, 1, 18.75, 1), (0, 2, 19.5, 1), (-1, 2, 17.0, -1)],
        [(-3, 1, 20.25), (-1.5, 2, 20.5), (1, 1, 21.0)],
    ),
    "ZTF26bb": ([(0, 3, 16.0, 1)], [(0.5, 1, 20.0)]),
    "ZTF26cc": ([(0, 1, 16.0, -1)], []),
    "ZTF26dd": ([(k, 1 + k % 2, 18.0 + k / 8, 1) for k in range(14)], [(-1, 1, None), (-2, 2, 20.0)]),
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake of four objects."""
    path = str(tmp_path_factory.mktemp("sky") / "lake")
    write.create(path, 0, sync=False)
    number = 0
    for k, (oid, (points, limits)) in enumerate(OBJECTS.items()):
        place = {"oid": oid, "healpix29": int(healpix(20.0 * k, -60.0)), "pixel": int(healpix(20.0 * k, -60.0, 0))}
        about = {"meanra": 20.0 * k, "meandec": -60.0, "sigmara": 1e-4 if len(points) > 1 else None}
        small_lake.replace(path, "objects", _rows("objects", place | about))
        rows = []
        for days, fid, magnitude, sign in points:
            number += 1
            row = place | {"candid": number, "mjd": FIRST + days, "fid": fid, "magpsf": magnitude, "isdiffpos": sign}
            rows.append(row | {"sigmapsf": 0.125, "diffmaglim": 20.75, "ra": 20.0 * k, "dec": -60.0})
        small_lake.replace(path, "detections", _rows("detections", *rows))
        rows = [place | {"mjd": FIRST + days, "fid": fid, "diffmaglim": limit} for days, fid, limit in limits]
        small_lake.replace(path, "non_detections", _rows("non_detections", *rows))
    return path


def test_a_draft_has_what_the_tables_have(sky: str, fake: FakeTns) -> None:
    for k, (oid, (points, limits)) in enumerate(OBJECTS.items()):
        seen = sorted(point[:3] for point in points if point[3] > 0)[:10]
        if not seen:
            with pytest.raises(InputError, match="nothing to report"):
                draft.draft(sky, oid, settings(fake))
            continue
        report = draft.draft(sky, oid, settings(fake), host=draft.Host("NGC 1", 0.0123), remarks=" Seen. ")
        assert (float(report["ra"]["value"]), float(report["dec"]["value"])) == (20.0 * k, -60.0)
        # 1e-4 degrees of right ascension are half of it on the sky at this declination.
        assert report["ra"].get("error") == ("0.180" if len(points) > 1 else None)
        assert "error" not in report["dec"]
        assert _mjd(report["discovery_datetime"]) == pytest.approx(FIRST + seen[0][0], abs=1e-8)
        told = list(report["photometry"]["photometry_group"].values())
        found = [(_mjd(p["obsdate"]) - FIRST, int(p["filter_value"]) - 109, float(p["flux"])) for p in told]
        assert found == pytest.approx([pytest.approx(point, abs=1e-6) for point in seen])
        assert {(p["flux_error"], p["limiting_flux"], p["instrument_value"]) for p in told} == {
            ("0.1250", "20.7500", "196")
        }
        before = sorted(limit for limit in limits if limit[0] < seen[0][0] and limit[2] is not None)
        limit = report["non_detection"]
        assert ("archiveid" in limit) == (not before)
        if before:
            where = _mjd(limit["obsdate"]) - FIRST, int(limit["filter_value"]) - 109, float(limit["limiting_flux"])
            assert where == pytest.approx(before[-1], abs=1e-6)
        assert (report["host_name"], report["host_redshift"], report["remarks"]) == ("NGC 1", "0.0123", "Seen.")
        assert (report["internal_name"], report["reporter"]) == (oid, WHO)


def _mjd(date: str) -> float:
    return float(Time(date, scale="utc").mjd)


def test_an_object_that_the_catalogue_has_is_reported_only_if_a_person_says_so(
    sky: str, fake: FakeTns, tmp_path: Path
) -> None:
    lake = shutil.copytree(sky, str(tmp_path / "lake"))
    row = {"objid": 1, "name_prefix": "SN", "name": "2026abc", "ra": 20.0, "declination": -60.0 + 2 / 3600}
    path = tmp_path / "tns_public_objects.csv"
    path.write_bytes(public_csv([row, row | {"objid": 2, "name": "2026def", "ra": 60.0, "declination": -60.002}]))
    catalog.import_files(lake, [path])
    with pytest.raises(InputError, match="TNS has SN2026abc at the place of ZTF26bb"):
        draft.draft(lake, "ZTF26bb", settings(fake))
    assert draft.draft(lake, "ZTF26bb", settings(fake), known=True)["internal_name"] == "ZTF26bb"
    assert draft.draft(lake, "ZTF26dd", settings(fake))["internal_name"] == "ZTF26dd"


def test_a_draft_needs_somebody_who_reports_and_an_object(sky: str, fake: FakeTns) -> None:
    with pytest.raises(ConfigError, match="reporters"):
        draft.draft(sky, "ZTF26a", settings(fake, reporters=""))
    with pytest.raises(InputError, match="no object ZTF26a"):
        draft.draft(sky, "ZTF26a", settings(fake))


def test_a_server_that_is_not_set_is_not_asked(fake: FakeTns) -> None:
    for name in ("url", "bot_id", "bot_name", "api_key"):
        with pytest.raises(ConfigError, match="TNS is not asked"):
            Tns(settings(fake, **{name: type(getattr(settings(fake), name))() if name == "bot_id" else ""}))
    with pytest.raises(ConfigError, match="HERMES is not asked"):
        Hermes(settings(fake, hermes_token=""))
    assert fake.asked == []
    assert sending.called("/nowhere", "ZTF26a").is_empty()


def test_hosts_are_the_galaxies_of_the_catalogues(sky: str, tmp_path: Path) -> None:
    lake = shutil.copytree(sky, str(tmp_path / "lake"))
    known = load_catalogs(ROOT / "conf" / "catalogs.toml", surveys.get(surveys.DEFAULT))
    for name, text in {
        "sdss": "objID,ra,dec,type,psfMag_r,redshift\n1,5,5.002,3,17.5,0.05\n2,5,5.001,6,16,\n3,5,5.02,3,17,0.1\n",
        "ps1": "objID,raMean,decMean,iMeanPSFMag,iMeanKronMag\n7,5,5.001,18.5,18.0\n8,5,5.001,18.5,18.5\n",
    }.items():
        (tmp_path / f"{name}.csv").write_text(text)
        import_catalog(lake, name, known[name], [tmp_path / f"{name}.csv"])
    found = hosts.candidates(lake, 5.0, 5.0)
    assert found.select("catalog", "source_id", "redshift", "r").rows() == [
        ("ps1", "7", None, None),
        ("sdss", "1", 0.05, 17.5),
    ]
    assert found["separation"].to_list() == pytest.approx([3.6, 7.2], abs=1e-6)
    assert hosts.candidates(lake, 50.0, 5.0).is_empty()


def test_the_commands_take_a_report_from_the_object_to_its_name(
    tmp_path: Path, sky: str, fake: FakeTns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sky, tmp_path / "lake")
    for name, value in _environment(fake).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as done:
            main(["tns", *arguments, "--lake", str(tmp_path / "lake")])
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert KEY not in said
        assert TOKEN not in said
        return int(done.value.code or 0), " ".join(said.split())

    there = {"objid": 5, "name_prefix": "SN", "name": "2026abc", "ra": 0.0, "declination": -60.0 + 1 / 3600}
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    rows = [there | {"lastmodified": f"{today} 00:00:01"}]
    fake.files["tns_public_objects.csv.zip"] = public_zip(rows, f"{today} 00:00:00 - 23:59:59")
    code, said = run("fetch")
    assert code in (0, 1)  # in the first hour of a day no hourly file is due
    assert "new, 0 changed" in said
    assert "1 objects have a source, 1 rows written" in said
    (row,) = small_lake.read(str(tmp_path / "lake"), "xmatch").to_dicts()
    assert (row["oid"], row["attributes"]["name"], row["candid"]) == ("ZTF26aa", "2026abc", None)
    assert run("draft", "ZTF26aa", "--by", WHO)[0] == 2
    code, said = run("draft", "ZTF26dd", "--by", WHO, "--host", "NGC 1", "--host-redshift", "0.01")
    assert (code, '"host_name": "NGC 1"' in said, "ZTF26dd drafted" in said) == (0, True, True)
    assert run("draft", "ZTF26dd", "--by", WHO, "--host-redshift", "0.01")[0] == 2
    assert run("send") == (0, "")
    assert run("approve", "ZTF26dd", "--by", WHO)[0] == 0
    fake.gateway, fake.delay = 1, 1
    code, said = run("send", "--wait", "0")
    assert (code, "ZTF26dd unknown" in said) == (0, True)
    code, said = run("send", "--wait", "30")
    assert (code, "ZTF26dd named AT2026" in said) == (0, True)
    code, said = run("status", "ZTF26dd")
    assert [word for word in said.split() if word in ("drafted", "approved", "sending", "unknown", "named")] == [
        *("drafted", "approved", "sending", "unknown", "named"),
    ]
    assert fake.counted() == {"ZTF26dd": 1}
    for arguments in (("approve", "ZTF26dd", "--by", WHO), ("import", str(tmp_path / "none.csv"))):
        assert run(*arguments)[0] == 2
