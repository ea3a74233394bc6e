"""The command: errors a user can mend are one message and exit status 2."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from alerce_spark.cli import main
from alerce_spark.errors import InputError
from alerce_spark.outputs import check_out, check_out_folder


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    captured = capsys.readouterr()
    code = done.value.code
    assert isinstance(code, int)
    return code, " ".join((captured.out + captured.err).split())


def test_a_wrong_setting_stops_with_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERCE_KAFKA__PARTITIONS", "none")
    code, said = _run(capsys, "kafka", "status")
    assert code == 2
    assert "ALERCE_KAFKA__PARTITIONS" in said
    assert "Traceback" not in said


def test_tables_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _run(capsys, "tables", "describe")
    assert code == 0
    assert "quarantine" in said
    code, said = _run(capsys, "tables", "describe", "magstats")
    assert code == 0
    assert "saturation_rate" in said
    code, said = _run(capsys, "tables", "describe", "magstat")
    assert code == 2
    assert "no table 'magstat'" in said


def test_a_lake_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = _run(capsys, "plot", "ZTF20aaelulu", "--lake", str(tmp_path))
    assert code == 2
    assert "alerce-spark tables create" in said


def test_simulated_packets_are_the_same_for_a_seed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        code, _ = _run(capsys, "simulate", str(tmp_path / name), "--alerts", "12", "--seed", "7")
        assert code == 0
    made = {name: {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("a", "b")}
    assert len(made["a"]) == 12
    assert made["a"] == made["b"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | KeyboardInterrupt], None]:
    """Lets `alerce-spark kafka status` raise an error."""

    def fail(error: Exception | KeyboardInterrupt) -> None:
        def status(folder: Path) -> None:
            raise error

        monkeypatch.setattr("alerce_spark.local_kafka.status", status)

    return fail


def test_an_error_of_ours_keeps_its_trace_and_asks_to_be_reported(
    capsys: pytest.CaptureFixture[str], command: Callable[[Exception], None]
) -> None:
    for error in (ValueError("of ours"), KeyError("of ours"), FileNotFoundError(errno.ENOENT, "of ours")):
        command(error)
        code, said = _run(capsys, "kafka", "status")
        assert code == 70
        assert "Traceback" in said
        assert "of ours" in said
        assert said.endswith("please report it with the trace above and `alerce-spark --version`.")


def test_what_the_system_refuses_is_one_message(
    capsys: pytest.CaptureFixture[str], command: Callable[[Exception], None]
) -> None:
    refusals = (
        OSError(errno.ENOSPC, "No space left on device", "/data/x"),
        PermissionError(errno.EACCES, "Permission denied", "/data/x"),
        OSError("Permission denied (os error 13): /data/x"),  # as polars and delta-rs say it, without a number
    )
    for error in refusals:
        command(error)
        code, said = _run(capsys, "kafka", "status")
        assert code == 2
        assert said.startswith("error: ")
        assert "/data/x" in said
        assert "Traceback" not in said


def test_ctrl_c_ends_quietly(
    capsys: pytest.CaptureFixture[str], command: Callable[[Exception | KeyboardInterrupt], None]
) -> None:
    command(KeyboardInterrupt())
    assert _run(capsys, "kafka", "status") == (130, "")


def test_text_of_anybody_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], command: Callable[[Exception], None]
) -> None:
    # An escape sequence, mark-up of rich, text from right to left, a byte that is no UTF-8.
    command(InputError("\x1b[31mred\x1b]0;title\x07 [bold]x[/] \u202eevil \udce9 ünïcode"))
    code, said = _run(capsys, "kafka", "status")
    assert code == 2
    assert said == "error: \\x1b[31mred\\x1b]0;title\\x07 [bold]x[/] \\u202eevil \\udce9 ünïcode"


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _run(capsys, "--version")
    assert code == 0
    assert version("alerce-spark") in said


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("there", "is a folder"),
        ("file/o.csv", "file is a file"),
        ("o.xlsx", ".csv or .parquet"),
        ("x" * 300 + ".csv", "name too long"),
        ("/proc/o.csv", "/proc/o.csv cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("file").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=re.escape(said)):
        check_out(Path(out), () if out == "there" else (".csv", ".parquet"))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("kept")
    (tmp_path / "link.csv").symlink_to("mine.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "mine.csv")
    (tmp_path / "parts").mkdir()
    for out in ("mine.csv", "parts/../mine.csv", "link.csv", "hard.csv"):
        with pytest.raises(InputError, match="is the input"):
            check_out(tmp_path / out, (".csv",), [None, tmp_path / "mine.csv"])
    with pytest.raises(InputError, match="lies in it"):
        check_out(tmp_path / "parts" / "new.csv", (".csv",), [tmp_path / "parts"])
    assert check_out(tmp_path / "new.csv", (".csv",), [tmp_path / "mine.csv", tmp_path / "absent.csv"])


def test_a_file_in_a_folder_without_rights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.csv").write_text("kept")

    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(InputError, match="Permission denied"):
        check_out(tmp_path / "old.csv", (".csv",))


def test_an_output_that_can_be_written_is_not_touched(tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "folder" / "new.csv"
    old.write_text("kept")
    assert check_out(old, (".csv",)).read_text() == "kept"
    assert not check_out(new, (".csv",)).exists()
    assert new.parent.is_dir()
    assert check_out(Path("/dev/null")) == Path("/dev/null")
    with pytest.raises(InputError, match="is a file"):
        check_out_folder(old)
    assert list(check_out_folder(tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("integrity", "--night", "2020061"),
        ("integrity", "--night", "2020-06-01"),
        ("integrity", "--night", "20201345"),
        ("integrity", "--night", "２０２００６０１"),
        ("replay", "--night", "../.."),
        ("retrain", "--date", "today"),
        ("train", "stamp", "--date", "20200230"),
    ],
)
def test_a_night_that_is_no_date_is_refused_with_the_form(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    out = () if arguments[0] == "integrity" else ("--out", str(tmp_path))
    code, said = _run(capsys, *arguments, *out, "--lake", str(tmp_path))
    assert code == 2
    assert "YYYYMMDD" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("simulate", "s", "--alerts", "0"), "--alerts"),
        (("simulate", "s", "--alerts", "-5"), "--alerts"),
        (("simulate", "s", "--seed", "-1"), "--seed"),
        (("simulate", "s", "--version", "9.9"), "unknown ZTF schema version(s) 9.9"),
        (("simulate", "file"), "file is a file"),
        (("compact", "--max-files", "0"), "--max-files"),
        (("compact", "--lake", "nolake"), "tables create"),
        (("reclassify", "--lake", "nolake"), "tables create"),
        (("catalog", "list", "--lake", "nolake"), "no catalogues in nolake"),
        (("catalog", "list", "--lake", ""), "is empty"),
        (("stream", "--queries", "stamps,stamps"), "stamps is named twice"),
        (("stream", "--queries", ""), "stream.queries: no query ''"),
        (("plot", "x", "--period", "0"), "a period"),
        (("plot", "x", "--period", "nan"), "a period"),
        (("plot", "x", "--out", "x.txt"), ".png"),
        (("outliers", "--limit", "-1"), "limit = -1"),
        (("outliers", "--min-score", "nan"), "NaN"),
        (("uncertain", "--count", "0"), "count = 0"),
        (("models", "retire", "nonsense", "1"), "no classifier 'nonsense'"),
        (("crossmatch", "--out", "x.csv"), "--out without --csv"),
        (("crossmatch", "--all", "--ra-column", "ra"), "--all, --ra-column without --csv"),
        (("models", "roll-back", "nonsense"), "no classifier 'nonsense'"),
        (("models", "register", "lc_classifier", "1", "absent"), "no model file absent"),
        (("import", "file", "--through-stream", "topic with blanks"), "cannot be a topic"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_the_work(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    wanted: str,
) -> None:
    monkeypatch.setenv("ALERCE_CONF", str(Path("conf/alerce.toml").resolve()))
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    code, said = _run(capsys, *arguments)
    assert code == 2
    assert wanted in said
    assert "Traceback" not in said
    assert not Path("s").exists() or not list(Path("s").iterdir())


def _no_spark(*_: object) -> None:
    raise AssertionError("Spark was started")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--detections": "absent"}, "no file or folder"),
        ({"--detections": "empty"}, "holds no Parquet files"),
        ({"--xmatch": "absent"}, "cross-matches: there is no file"),
        ({"--non-detections": "empty"}, "non-detections: the folder"),
        ({"--out": "empty"}, "exists"),
        ({"--out": ""}, "--out is empty"),
        ({"--out": "file/out"}, "is a file"),
        ({"--format": "csv"}, "parquet or delta"),
    ],
)
def test_features_refuses_what_it_cannot_read_or_write_before_spark(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alerce_spark.session.spark_session", _no_spark)
    for folder in ("empty", "curves"):
        (tmp_path / folder).mkdir()
    for file in ("file", "curves/a.parquet"):
        (tmp_path / file).touch()
    options = {"--detections": "curves", "--out": "out", **changed}
    code, message = _run(capsys, "features", *(part for option in options.items() for part in option))
    assert code == 2
    assert said in message
