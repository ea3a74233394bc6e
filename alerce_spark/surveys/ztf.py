"""ZTF: every field of every schema version of its packets, the Avro schemas built from them, and its description.

Field names and types are those of the public ZTF alert schemas, versions 1 (packets without `schemavsn`) to 4.02.
Units and meanings become column comments of the tables (`lake/tables.py`).
"""

from __future__ import annotations

from typing import Any

from alerce_spark.errors import InputError
from alerce_spark.surveys.survey import (
    BELOW_360,
    MJD_RANGE,
    MJD_ZERO,
    T_OR_F,
    Check,
    Cutouts,
    Derived,
    Field,
    Forced,
    Neighbour,
    Record,
    Survey,
)

#: Schema versions, oldest first. "1.0" stands for packets that carry no `schemavsn`.
VERSIONS = ("1.0", "3.0", "3.2", "3.3", "4.01", "4.02")

CUTOUTS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")


CANDIDATE: tuple[Field, ...] = (
    Field("jd", "double", "Julian date at the start of the exposure, UTC", unit="d"),
    Field("fid", "int", "Filter: 1 g, 2 r, 3 i"),
    Field("pid", "long", "Processing id of the science image"),
    Field("diffmaglim", "float", "5-sigma limit of the difference image", unit="mag", nullable=True),
    Field("pdiffimfilename", "string", "File name of the positive difference image", nullable=True),
    Field("programpi", "string", "Principal investigator of the programme", nullable=True),
    Field("programid", "int", "Programme: 1 public, 2 partnership, 3 Caltech"),
    # Compared with that of the packet.
    Field("candid", "long", "Id of the candidate", column="candidate.candid"),
    Field("isdiffpos", "string", "Sign of the subtraction: t or 1 brighter, f or 0 fainter than the reference"),
    Field("tblid", "long", "Row of the candidate in the pipeline's extraction table", nullable=True),
    Field("nid", "int", "Night number of the survey", nullable=True),
    Field("rcid", "int", "Readout channel, 0 to 63", nullable=True),
    Field("field", "int", "Field of the survey grid", nullable=True),
    Field("xpos", "float", "x position on the image", unit="pix", nullable=True),
    Field("ypos", "float", "y position on the image", unit="pix", nullable=True),
    Field("ra", "double", "Right ascension, J2000", unit="deg"),
    Field("dec", "double", "Declination, J2000", unit="deg"),
    Field("magpsf", "float", "Magnitude of the difference flux, PSF fit", unit="mag"),
    Field("sigmapsf", "float", "1-sigma error of magpsf", unit="mag"),
    Field("chipsf", "float", "Reduced chi-square of the PSF fit", nullable=True),
    Field("magap", "float", "Magnitude of the difference flux, aperture of 14 pixels", unit="mag", nullable=True),
    Field("sigmagap", "float", "1-sigma error of magap", unit="mag", nullable=True),
    Field("distnr", "float", "Distance to the nearest source of the reference image", unit="pix", nullable=True),
    Field("magnr", "float", "Magnitude of the nearest source of the reference image", unit="mag", nullable=True),
    Field("sigmagnr", "float", "1-sigma error of magnr", unit="mag", nullable=True),
    Field("chinr", "float", "DAOPhot chi of the nearest reference source", nullable=True),
    Field("sharpnr", "float", "DAOPhot sharpness of the nearest reference source", nullable=True),
    Field("sky", "float", "Local sky background", unit="DN", nullable=True),
    Field("magdiff", "float", "magap minus magpsf", unit="mag", nullable=True),
    Field("fwhm", "float", "Full width at half maximum, Gaussian core", unit="pix", nullable=True),
    Field("classtar", "float", "SExtractor star/galaxy score", nullable=True),
    Field("mindtoedge", "float", "Distance to the nearest edge of the image", unit="pix", nullable=True),
    Field("magfromlim", "float", "diffmaglim minus magap", unit="mag", nullable=True),
    Field("seeratio", "float", "FWHM of the difference over FWHM of the science image", nullable=True),
    Field("aimage", "float", "Windowed rms along the major axis", unit="pix", nullable=True),
    Field("bimage", "float", "Windowed rms along the minor axis", unit="pix", nullable=True),
    Field("aimagerat", "float", "aimage over fwhm", nullable=True),
    Field("bimagerat", "float", "bimage over fwhm", nullable=True),
    Field("elong", "float", "aimage over bimage", nullable=True),
    Field("nneg", "int", "Negative pixels in the central 5 x 5", nullable=True),
    Field("nbad", "int", "Bad pixels in the central 5 x 5", nullable=True),
    Field("rb", "float", "Real/bogus score of the random forest, 0 to 1", nullable=True),
    Field(
        "ssdistnr",
        "float",
        "Distance to the nearest known Solar System object; -999 none within 30 arcsec",
        unit="arcsec",
        nullable=True,
    ),
    Field("ssmagnr", "float", "Predicted magnitude of the nearest Solar System object", unit="mag", nullable=True),
    Field("ssnamenr", "string", "Name of the nearest Solar System object; 'null' none", nullable=True),
    Field("sumrat", "float", "Sum of pixels over sum of absolute pixels, central 5 x 5", nullable=True),
    Field("magapbig", "float", "Magnitude of the difference flux, aperture of 18 pixels", unit="mag", nullable=True),
    Field("sigmagapbig", "float", "1-sigma error of magapbig", unit="mag", nullable=True),
    Field("ranr", "double", "Right ascension of the nearest reference source", unit="deg"),
    Field("decnr", "double", "Declination of the nearest reference source", unit="deg"),
    Field("sgmag1", "float", "PS1 g magnitude of the nearest source", unit="mag", nullable=True),
    Field("srmag1", "float", "PS1 r magnitude of the nearest source", unit="mag", nullable=True),
    Field("simag1", "float", "PS1 i magnitude of the nearest source", unit="mag", nullable=True),
    Field("szmag1", "float", "PS1 z magnitude of the nearest source", unit="mag", nullable=True),
    Field("sgscore1", "float", "Star/galaxy score of the nearest PS1 source, 1 star", nullable=True),
    Field("distpsnr1", "float", "Distance to the nearest PS1 source", unit="arcsec", nullable=True),
    Field("ndethist", "int", "Earlier detections within 1.5 arcsec since the survey began"),
    Field("ncovhist", "int", "Times the position fell on an exposure since the survey began"),
    Field("jdstarthist", "double", "Julian date of the first of ndethist", unit="d", nullable=True),
    Field("jdendhist", "double", "Julian date of the last of ndethist", unit="d", nullable=True),
    Field("scorr", "double", "Peak signal-to-noise of the matched-filtered difference image", nullable=True),
    Field("tooflag", "int", "1 for a target-of-opportunity exposure", nullable=True),
    Field("objectidps1", "long", "PS1 id of the nearest source within 30 arcsec", nullable=True),
    Field("objectidps2", "long", "PS1 id of the second nearest source within 30 arcsec", nullable=True),
    Field("sgmag2", "float", "PS1 g magnitude of the second nearest source", unit="mag", nullable=True),
    Field("srmag2", "float", "PS1 r magnitude of the second nearest source", unit="mag", nullable=True),
    Field("simag2", "float", "PS1 i magnitude of the second nearest source", unit="mag", nullable=True),
    Field("szmag2", "float", "PS1 z magnitude of the second nearest source", unit="mag", nullable=True),
    Field("sgscore2", "float", "Star/galaxy score of the second nearest PS1 source, 1 star", nullable=True),
    Field("distpsnr2", "float", "Distance to the second nearest PS1 source", unit="arcsec", nullable=True),
    Field("objectidps3", "long", "PS1 id of the third nearest source within 30 arcsec", nullable=True),
    Field("sgmag3", "float", "PS1 g magnitude of the third nearest source", unit="mag", nullable=True),
    Field("srmag3", "float", "PS1 r magnitude of the third nearest source", unit="mag", nullable=True),
    Field("simag3", "float", "PS1 i magnitude of the third nearest source", unit="mag", nullable=True),
    Field("szmag3", "float", "PS1 z magnitude of the third nearest source", unit="mag", nullable=True),
    Field("sgscore3", "float", "Star/galaxy score of the third nearest PS1 source, 1 star", nullable=True),
    Field("distpsnr3", "float", "Distance to the third nearest PS1 source", unit="arcsec", nullable=True),
    Field("nmtchps", "int", "PS1 sources within 30 arcsec"),
    Field("rfid", "long", "Processing id of the reference image"),
    Field("jdstartref", "double", "Julian date of the first frame of the reference", unit="d"),
    Field("jdendref", "double", "Julian date of the last frame of the reference", unit="d"),
    Field("nframesref", "int", "Frames in the reference"),
    Field("rbversion", "string", "Version of the rb model", since="3.0"),
    Field("dsnrms", "float", "Peak over rms of the difference image", nullable=True, since="3.0"),
    Field("ssnrms", "float", "Peak over rms of the matched-filtered difference image", nullable=True, since="3.0"),
    Field("dsdiff", "float", "dsnrms minus ssnrms", nullable=True, since="3.0"),
    Field("magzpsci", "float", "Zero point of the science image", unit="mag", nullable=True, since="3.0"),
    Field("magzpsciunc", "float", "Error of magzpsci", unit="mag", nullable=True, since="3.0"),
    Field(
        "magzpscirms",
        "float",
        "Scatter of the calibrators about the zero point",
        unit="mag",
        nullable=True,
        since="3.0",
    ),
    Field("nmatches", "int", "PS1 calibrators used", since="3.0"),
    Field("clrcoeff", "float", "Colour coefficient of the calibration", nullable=True, since="3.0"),
    Field("clrcounc", "float", "Error of clrcoeff", nullable=True, since="3.0"),
    Field("zpclrcov", "float", "Covariance of magzpsci and clrcoeff", unit="mag2", nullable=True, since="3.0"),
    Field("zpmed", "float", "Median zero point of the calibrators", unit="mag", nullable=True, since="3.0"),
    Field("clrmed", "float", "Median colour of the calibrators", unit="mag", nullable=True, since="3.0"),
    Field("clrrms", "float", "Scatter in colour of the calibrators", unit="mag", nullable=True, since="3.0"),
    Field("neargaia", "float", "Distance to the nearest Gaia DR1 source", unit="arcsec", nullable=True, since="3.0"),
    Field(
        "neargaiabright",
        "float",
        "Distance to the nearest Gaia DR1 source brighter than 14",
        unit="arcsec",
        nullable=True,
        since="3.0",
    ),
    Field("maggaia", "float", "G magnitude of the nearest Gaia DR1 source", unit="mag", nullable=True, since="3.0"),
    Field(
        "maggaiabright",
        "float",
        "G magnitude of the nearest Gaia DR1 source brighter than 14",
        unit="mag",
        nullable=True,
        since="3.0",
    ),
    Field("exptime", "float", "Exposure time", unit="s", nullable=True, since="3.2"),
    Field("drb", "float", "Real/bogus score of the deep network, 0 to 1", nullable=True, since="3.3"),
    Field("drbversion", "string", "Version of the drb model", since="3.3"),
)

PRV_CANDIDATE: tuple[Field, ...] = (
    Field("jd", "double", "Julian date at the start of the exposure, UTC", unit="d"),
    Field("fid", "int", "Filter: 1 g, 2 r, 3 i"),
    Field("pid", "long", "Processing id of the science image"),
    Field("diffmaglim", "float", "5-sigma limit of the difference image", unit="mag", nullable=True),
    Field("pdiffimfilename", "string", "File name of the positive difference image", nullable=True),
    Field("programpi", "string", "Principal investigator of the programme", nullable=True),
    Field("programid", "int", "Programme: 1 public, 2 partnership, 3 Caltech"),
    Field("candid", "long", "Id of the candidate", nullable=True),
    Field(
        "isdiffpos",
        "string",
        "Sign of the subtraction: t or 1 brighter, f or 0 fainter than the reference",
        nullable=True,
    ),
    Field("tblid", "long", "Row of the candidate in the pipeline's extraction table", nullable=True),
    Field("nid", "int", "Night number of the survey", nullable=True),
    Field("rcid", "int", "Readout channel, 0 to 63", nullable=True),
    Field("field", "int", "Field of the survey grid", nullable=True),
    Field("xpos", "float", "x position on the image", unit="pix", nullable=True),
    Field("ypos", "float", "y position on the image", unit="pix", nullable=True),
    Field("ra", "double", "Right ascension, J2000", unit="deg", nullable=True),
    Field("dec", "double", "Declination, J2000", unit="deg", nullable=True),
    Field("magpsf", "float", "Magnitude of the difference flux, PSF fit", unit="mag", nullable=True),
    Field("sigmapsf", "float", "1-sigma error of magpsf", unit="mag", nullable=True),
    Field("chipsf", "float", "Reduced chi-square of the PSF fit", nullable=True),
    Field("magap", "float", "Magnitude of the difference flux, aperture of 14 pixels", unit="mag", nullable=True),
    Field("sigmagap", "float", "1-sigma error of magap", unit="mag", nullable=True),
    Field("distnr", "float", "Distance to the nearest source of the reference image", unit="pix", nullable=True),
    Field("magnr", "float", "Magnitude of the nearest source of the reference image", unit="mag", nullable=True),
    Field("sigmagnr", "float", "1-sigma error of magnr", unit="mag", nullable=True),
    Field("chinr", "float", "DAOPhot chi of the nearest reference source", nullable=True),
    Field("sharpnr", "float", "DAOPhot sharpness of the nearest reference source", nullable=True),
    Field("sky", "float", "Local sky background", unit="DN", nullable=True),
    Field("magdiff", "float", "magap minus magpsf", unit="mag", nullable=True),
    Field("fwhm", "float", "Full width at half maximum, Gaussian core", unit="pix", nullable=True),
    Field("classtar", "float", "SExtractor star/galaxy score", nullable=True),
    Field("mindtoedge", "float", "Distance to the nearest edge of the image", unit="pix", nullable=True),
    Field("magfromlim", "float", "diffmaglim minus magap", unit="mag", nullable=True),
    Field("seeratio", "float", "FWHM of the difference over FWHM of the science image", nullable=True),
    Field("aimage", "float", "Windowed rms along the major axis", unit="pix", nullable=True),
    Field("bimage", "float", "Windowed rms along the minor axis", unit="pix", nullable=True),
    Field("aimagerat", "float", "aimage over fwhm", nullable=True),
    Field("bimagerat", "float", "bimage over fwhm", nullable=True),
    Field("elong", "float", "aimage over bimage", nullable=True),
    Field("nneg", "int", "Negative pixels in the central 5 x 5", nullable=True),
    Field("nbad", "int", "Bad pixels in the central 5 x 5", nullable=True),
    Field("rb", "float", "Real/bogus score of the random forest, 0 to 1", nullable=True),
    Field(
        "ssdistnr",
        "float",
        "Distance to the nearest known Solar System object; -999 none within 30 arcsec",
        unit="arcsec",
        nullable=True,
    ),
    Field("ssmagnr", "float", "Predicted magnitude of the nearest Solar System object", unit="mag", nullable=True),
    Field("ssnamenr", "string", "Name of the nearest Solar System object; 'null' none", nullable=True),
    Field("sumrat", "float", "Sum of pixels over sum of absolute pixels, central 5 x 5", nullable=True),
    Field("magapbig", "float", "Magnitude of the difference flux, aperture of 18 pixels", unit="mag", nullable=True),
    Field("sigmagapbig", "float", "1-sigma error of magapbig", unit="mag", nullable=True),
    Field("ranr", "double", "Right ascension of the nearest reference source", unit="deg", nullable=True),
    Field("decnr", "double", "Declination of the nearest reference source", unit="deg", nullable=True),
    Field("scorr", "double", "Peak signal-to-noise of the matched-filtered difference image", nullable=True),
    Field("magzpsci", "float", "Zero point of the science image", unit="mag", nullable=True, since="3.3"),
    Field("magzpsciunc", "float", "Error of magzpsci", unit="mag", nullable=True, since="3.3"),
    Field(
        "magzpscirms",
        "float",
        "Scatter of the calibrators about the zero point",
        unit="mag",
        nullable=True,
        since="3.3",
    ),
    Field("clrcoeff", "float", "Colour coefficient of the calibration", nullable=True, since="3.3"),
    Field("clrcounc", "float", "Error of clrcoeff", nullable=True, since="3.3"),
    Field("rbversion", "string", "Version of the rb model", since="3.0"),
)

FP_HIST: tuple[Field, ...] = (
    Field("field", "int", "Field of the survey grid", nullable=True),
    Field("rcid", "int", "Readout channel, 0 to 63", nullable=True),
    Field("fid", "int", "Filter: 1 g, 2 r, 3 i"),
    Field("pid", "long", "Processing id of the science image"),
    Field("rfid", "long", "Processing id of the reference image"),
    Field("sciinpseeing", "float", "Seeing of the science image, FWHM", unit="pix", nullable=True),
    Field("scibckgnd", "float", "Background of the science image", unit="DN", nullable=True),
    Field("scisigpix", "float", "Robust noise per pixel of the science image", unit="DN", nullable=True),
    Field("magzpsci", "float", "Zero point of the science image", unit="mag", nullable=True),
    Field("magzpsciunc", "float", "Error of magzpsci", unit="mag", nullable=True),
    Field("magzpscirms", "float", "Scatter of the calibrators about the zero point", unit="mag", nullable=True),
    Field("clrcoeff", "float", "Colour coefficient of the calibration", nullable=True),
    Field("clrcounc", "float", "Error of clrcoeff", nullable=True),
    Field("exptime", "float", "Exposure time", unit="s", nullable=True),
    Field("adpctdif1", "float", "Astrometric rms in right ascension against Gaia", unit="arcsec", nullable=True),
    Field("adpctdif2", "float", "Astrometric rms in declination against Gaia", unit="arcsec", nullable=True),
    Field("diffmaglim", "float", "5-sigma limit of the difference image", unit="mag", nullable=True),
    Field("programid", "int", "Programme: 1 public, 2 partnership, 3 Caltech"),
    Field("jd", "double", "Julian date at the start of the exposure, UTC", unit="d"),
    Field("forcediffimflux", "float", "Forced PSF flux in the difference image; -99999 none", unit="DN", nullable=True),
    Field("forcediffimfluxunc", "float", "1-sigma error of forcediffimflux; -99999 none", unit="DN", nullable=True),
    Field("procstatus", "string", "Status codes of the forced photometry; 0 no warning", nullable=True),
    Field("distnr", "float", "Distance to the nearest source of the reference image", unit="pix", nullable=True),
    Field("ranr", "double", "Right ascension of the nearest reference source", unit="deg"),
    Field("decnr", "double", "Declination of the nearest reference source", unit="deg"),
    Field("magnr", "float", "Magnitude of the nearest source of the reference image", unit="mag", nullable=True),
    Field("sigmagnr", "float", "1-sigma error of magnr", unit="mag", nullable=True),
    Field("chinr", "float", "DAOPhot chi of the nearest reference source", nullable=True),
    Field("sharpnr", "float", "DAOPhot sharpness of the nearest reference source", nullable=True),
)


TOP: tuple[Field, ...] = (
    Field("schemavsn", "string", "Version of the packet's schema", since="3.0"),
    Field("publisher", "string", "Who sent the packet", since="3.0"),
    Field("objectId", "string", "Object"),
    Field("candid", "long", "Id of the candidate"),
)


def _mjd(jd: Any) -> Any:
    """Modified Julian dates of an Arrow column of Julian ones."""
    import pyarrow.compute as pc  # noqa: PLC0415  the command reads this module, and needs no Arrow

    return pc.subtract(jd, MJD_ZERO)


def _date_of(candid: int) -> float:
    """A candid counts days since 2017-01-01, in units of 10⁻¹⁵."""
    return 57_754.0 + candid / 10**15


_PS1 = ("sgmag", "srmag", "simag", "szmag", "sgscore")

ZTF = Survey(
    name="ztf",
    versions=VERSIONS,
    top=Record("", TOP),
    alert=(Record("candidate", CANDIDATE),),
    previous=Record("prv_candidates", PRV_CANDIDATE),
    forced=Record("fp_hists", FP_HIST),
    cutouts=Cutouts(CUTOUTS, content="stampData", position=("xpos", "ypos")),
    checks=(
        Check("objectId", "name"),
        Check("candid", "id"),
        Check("candidate.candid", "same id"),
        Check("jd", "number", MJD_RANGE[0] + MJD_ZERO, MJD_RANGE[1] + MJD_ZERO, "[2400000.0, 2500000.0]"),
        Check("ra", "number", 0.0, BELOW_360, "[0, 360)"),
        Check("dec", "number", -90.0, 90.0, "[-90, 90]"),
        Check("fid", "number", 1, 3, "1 to 3"),
        Check("magpsf", "number"),
        Check("sigmapsf", "number"),
    ),
    derived=(Derived("mjd", "double", "jd", _mjd),),
    when_and_band=("jd", "fid"),
    bands={1: "g", 2: "r", 3: "i"},
    spellings=T_OR_F,
    reference=("magnr", "sigmagnr", "distnr"),
    forced_photometry=Forced("pid", "rfid", "forcediffimflux", "forcediffimfluxunc", "magzpsci", null=-99999.0),
    julian={f.name: f"m{f.name}" for f in CANDIDATE if f.name.startswith("jd")},
    of_limits=(
        *(f for f in PRV_CANDIDATE if f.name in ("pid", "programid", "nid", "field", "rcid")),
        Field("magzpsci", "float", "Magnitude zero point of the science image", unit="mag"),
    ),
    # Radii of its documentation (Masci et al. 2019, PASP 131, 018003, and the notes of the alert schema).
    neighbours=(
        Neighbour("ss_ztf", 30.0, "ssnamenr", "ssdistnr", ("ssmagnr",)),
        Neighbour(
            "ps1_ztf",
            30.0,
            "objectidps1",
            "distpsnr1",
            (
                *(f"{name}1" for name in _PS1),
                *(f"{name}{k}" for k in (2, 3) for name in ("objectidps", "distpsnr", *_PS1)),
                "nmtchps",
            ),
        ),
        # Packets do not name the Gaia source.
        Neighbour("gaia_ztf", 90.0, None, "neargaia", ("maggaia", "neargaiabright", "maggaiabright")),
    ),
    mover=("ssnamenr", "ssdistnr"),
    star=("distpsnr1", "sgscore1"),
    date_of=_date_of,
    topic="ztf_{night}_programid1",
)


def fields_of(record: tuple[Field, ...], version: str) -> list[Field]:
    """Fields of `record` that packets of schema `version` carry, in wire order.

    Raises ValueError for a version that is not in VERSIONS.
    """
    if version not in VERSIONS:
        raise InputError(f"unknown ZTF schema version {version!r}; known: {', '.join(VERSIONS)}")
    upto = VERSIONS.index(version)
    return [f for f in record if VERSIONS.index(f.since) <= upto]


def avro_schema(version: str) -> dict[str, Any]:
    """Avro schema of a packet of `version`; optional fields are type-first before version 4, null-first since."""
    null_first = version.startswith("4")

    def optional(avro_type: Any) -> list[Any]:
        return ["null", avro_type] if null_first else [avro_type, "null"]

    def record(name: str, fields: tuple[Field, ...]) -> dict[str, Any]:
        return {
            "type": "record",
            "name": f"ztf.alert.{name}",
            "fields": [
                {"name": f.name, "type": optional(f.type) if f.nullable else f.type, "doc": f.comment}
                for f in fields_of(fields, version)
            ],
        }

    cutout = {
        "type": "record",
        "name": "ztf.alert.cutout",
        "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes", "doc": "fits.gz"}],
    }
    top: list[dict[str, Any]] = []
    if version != "1.0":
        top += [{"name": "schemavsn", "type": "string"}, {"name": "publisher", "type": "string"}]
    top += [
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": "long"},
        {"name": "candidate", "type": record("candidate", CANDIDATE)},
        {
            "name": "prv_candidates",
            "type": optional({"type": "array", "items": record("prv_candidate", PRV_CANDIDATE)}),
        },
    ]
    if null_first:
        top.append({"name": "fp_hists", "type": optional({"type": "array", "items": record("fp_hist", FP_HIST)})})
    top.append({"name": CUTOUTS[0], "type": optional(cutout)})
    top += [{"name": name, "type": optional("ztf.alert.cutout")} for name in CUTOUTS[1:]]
    return {"type": "record", "name": "ztf.alert", "doc": "ZTF alert packet", "fields": top}
