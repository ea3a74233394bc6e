"""The eleven label sources of the paper in order of priority, their files, and the mapping of their classes to ours.

Förster et al. 2020, section 3.2, and Sánchez-Sáez et al. 2021, section 2.2, name the catalogues. If their notebooks
show how a class was mapped (TNS types, RS CVn, EA, EB, EW, Ceph, SN IIn, ELL), this module does the same;
docs/catalogs.md lists the mappings that are our decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

#: Largest distance between a catalogue position and an object [arcsec], the same for every source.
MATCH_RADIUS = 1.5

#: Marks a class of a catalogue that is left out on purpose. A class missing from a mapping is reported as unmapped.
DROP = None


def squash(text: str) -> str:
    """Spelling of a class without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", text).casefold()


def _first_letter(text: str) -> str:
    return text[:1]


@dataclass(frozen=True)
class Source:
    """A label source: the columns to read from its file (several spellings, the first found counts) and their meaning.

    `classes` maps `key(class of the source)` to one of our 15 classes or DROP. `every`, if set, is the class of all
    rows that `classes` does not name; then the class column may be absent and `original` is recorded. `at_least` is a
    quality cut: columns that may hold the value, and its least value. Without identifiers, row numbers are used.
    """

    title: str
    where: str
    ids: tuple[str, ...]
    labels: tuple[str, ...] = ()
    classes: Mapping[str, str | None] = field(default_factory=dict)
    key: Callable[[str], str] = squash
    every: str | None = None
    original: str = ""
    at_least: tuple[tuple[str, ...], float] | None = None


def _classes(groups: Mapping[str | None, str], key: Callable[[str], str] = squash) -> dict[str, str | None]:
    """One entry per class of a source, from `our class: "theirs; theirs; …"`. ValueError for a repeated class."""
    mapping: dict[str, str | None] = {}
    for ours, names in groups.items():
        for name in names.split(";"):
            spelled = key(name.strip())
            if mapping.setdefault(spelled, ours) != ours:
                raise ValueError(f"{name.strip()!r} is mapped to {mapping[spelled]} and to {ours}")
    return mapping


# Catalina numbers its types; its papers and VizieR also spell them (Drake et al. 2014, table 2).
_CRTS = _classes(
    {
        "E": "1; EW; 2; EA; 3; beta Lyrae; beta Lyr; EB; 17; EA_UP",
        "RRL": "4; RRab; 5; RRc; 6; RRd; 7; Blazhko; Blazkho",
        "Periodic-Other": "8; RS CVn; RSCVn; 15; Hump; 16; PCEB",
        "CEP": "9; ACEP; 10; Cep-II; Cep-I",
        "DSCT": "11; HADS; 12; LADS",
        "LPV": "13; LPV",
        DROP: "14; ELL",
    }
)

_CRTS_LABELS = ("Var_Type", "VarType", "Type", "Class", "Cl")
_CRTS_IDS = ("Catalina_Surveys_ID", "Numerical_ID", "SSS_ID", "CSS", "SSS", "Name", "ID")

#: Sources by name; the order is the priority: the first that has a class for an object decides.
SOURCES: dict[str, Source] = {
    "cvs": Source(
        title="cataclysmic variables, Abril et al. 2020 with Ritter & Kolb",
        where="VizieR B/cb (cbdata.dat with its ReadMe), J/MNRAS/492/L40",
        ids=("Name", "MainID", "Star"),
        labels=("Type1", "Type", "Class"),
        # Every row is a CV of some type but super-soft and ultra-luminous X-ray sources and those outside the Galaxy.
        classes=_classes({DROP: "SS; UL; EG"}),
        every="CV/Nova",
        original="CV",
    ),
    "romabzcat": Source(
        title="Roma-BZCAT, 5th edition, Massaro et al. 2015",
        where="VizieR VII/274 (bzcat5)",
        ids=("Name", "Source name", "5BZCAT"),
        labels=("Class", "Source classification", "Classification"),
        classes=_classes(
            {
                "Blazar": "BL Lac; QSO RLoud flat radio sp.; Blazar Uncertain type; BZB; BZQ; BZU; 5BZB; 5BZQ; 5BZU",
                # Light of the host galaxy outshines the jet; candidates lack a spectrum.
                DROP: "BL Lac-galaxy dominated; BL Lac Candidate; BZG; 5BZG",
            }
        ),
    ),
    "oh2015": Source(
        title="type I AGN, Oh et al. 2015",
        where="VizieR J/ApJS/219/1",
        ids=("ObjID", "objID", "SDSS", "Name", "ID"),
        every="AGN",
        original="type I AGN",
    ),
    "milliquas": Source(
        title="Million Quasars, Flesch 2015, 2019",
        where="VizieR VII/283 (v6.3), VII/290 (v7.2), or milliquas.fits of quasars.org",
        ids=("Name",),
        labels=("Type", "Class", "Descrip"),
        # The first letter is the class, lower case means a candidate; R, X and 2 are radio and X-ray associations.
        key=_first_letter,
        classes=_classes({"QSO": "Q", "AGN": "A", "Blazar": "B", DROP: "K;N;L;S;q;a;b;k;n;R;X;2"}, _first_letter),
    ),
    "tns": Source(
        title="spectroscopic classes of the Transient Name Server",
        where="tns_public_objects.csv, or the CSV of a search",
        ids=("name", "objid", "ID"),
        labels=("type", "Obj. Type"),
        classes=_classes(
            {
                "SNIa": "SN Ia; SN Ia-91T-like; SN Ia-91bg-like; SN Ia-CSM; SN Ia-pec; SN Ia-SC; SN Iax[02cx-like]",
                "SNIbc": "SN Ib; SN Ib-pec; SN Ib-Ca-rich; SN Ib/c; SN Ib/c-Ca-rich; SN Ibn; SN Ibn/Icn; SN Ic; "
                "SN Ic-BL; SN Ic-pec; SN Ic-Ca-rich; SN Icn",
                "SNII": "SN II; SN II-pec; SN IIL; SN IIP; SN IIn; SN IIn-pec",
                "SLSN": "SLSN-I; SLSN-II; SLSN-R",
                "CV/Nova": "CV; Nova",
                # SN IIb turns from II to Ib within weeks: the paper's set leaves it out of both.
                DROP: "; SN; SN I; SN I-faint; SN I-rapid; SN IIb; AGN; QSO; Blazar; Galaxy; TDE; TDE-H; TDE-He; "
                "TDE-H-He; Kilonova; LRN; ILRT; LBV; Impostor-SN; Gap; Gap I; Gap II; PISN; FBOT; FRB; Afterglow; "
                "Light-Echo; M dwarf; Varstar; WR; WR-WN; WR-WC; WR-WO; Std-spec; Other; Unknown; NA/Unknown",
            }
        ),
    ),
    "simbad": Source(
        title="young stellar objects of SIMBAD",
        where="SIMBAD TAP: SELECT main_id, ra, dec, otype FROM basic WHERE otype = 'Y*O..'",
        ids=("main_id", "oid", "Identifier", "typed_id"),
        labels=("otype", "otype_S", "otype_txt", "main_type"),
        classes=_classes(
            {
                "YSO": "Y*O; YSO; TT*; TTau*; Or*; Orion_V*; Orion V*; Ae*; Ae; FU*; FUOr; pr*; pMS*",
                # Candidates, and outflows and nebulae around young stars.
                DROP: "Y*?; YSO_Candidate; TT?; TTau*_Candidate; Ae?; Ae*_Candidate; pr?; pMS*_Candidate; of?; "
                "out; Outflow; Outflow_Candidate; HH; HerbigHaroObj; cor; denseCore",
            }
        ),
    ),
    "crts_north": Source(
        title="Catalina Surveys periodic variables, north, Drake et al. 2014",
        where="CatalinaVars.tbl of the Catalina data release, or VizieR J/ApJS/213/9",
        ids=_CRTS_IDS,
        labels=_CRTS_LABELS,
        classes=_CRTS,
    ),
    "crts_south": Source(
        title="Catalina Surveys periodic variables, south, Drake et al. 2017",
        where="VizieR J/MNRAS/469/3688",
        ids=_CRTS_IDS,
        labels=_CRTS_LABELS,
        classes=_CRTS,
    ),
    "linear": Source(
        title="LINEAR periodic variables, Palaversa et al. 2013",
        where="LINEARattributesFinalApr2013.dat of the LINEAR site, or VizieR J/AJ/146/101",
        ids=("LINEARobjectID", "LINEAR", "ID", "Name"),
        labels=("LCtype", "LCType", "Class", "Type"),
        classes=_classes(
            {
                "RRL": "1; RRab; 2; RRc",
                "E": "3; 4; 5",  # Algols with one and two minima, contact binaries
                "DSCT": "6",
                "LPV": "7",
                "CEP": "9; 11",  # BL Her, anomalous Cepheids
                DROP: "0; 8",  # other, heartbeat candidates
            }
        ),
    ),
    "gaia_dr2": Source(
        title="Gaia DR2 variable stars, Holl et al. 2018, Rimoldini et al. 2019",
        where="Gaia archive: vari_classifier_result joined with gaia_source for ra and dec",
        ids=("source_id", "Source"),
        labels=("best_class_name", "Class", "classification"),
        classes=_classes(
            {
                "RRL": "RRAB; RRC; RRD; ARRD",
                "LPV": "MIRA_SR",
                "DSCT": "DSCT_SXPHE",
                "CEP": "CEP; ACEP; T2CEP",
            }
        ),
    ),
    "asassn": Source(
        title="ASAS-SN variable stars, Jayasinghe et al. 2018–2020",
        where="CSV of the ASAS-SN variable star database, or VizieR II/366",
        ids=("asassn_name", "ASAS-SN Name", "ASASSN-V", "ASASSN", "source_id", "ID", "Name"),
        labels=("variable_type", "ML_classification", "Type"),
        # The survey calls a class certain above 0.9.
        at_least=(("class_probability", "classification_probability", "ML_probability", "Prob"), 0.9),
        classes=_classes(
            {
                "E": "E; EA; EB; EW",
                "RRL": "RR; RRAB; RRC; RRD",
                "CEP": "CEP; DCEP; DCEPS; CWA; CWB; RVA; RV",
                "DSCT": "DSCT; HADS; SXPHE",
                "LPV": "M; SR; SRA; SRB; SRC; SRD; SRS; L; LB; LC; LPV",
                "YSO": "YSO; TTS; CTTS; WTTS; INT; INS; IN; INA; INB; FUOR; EXOR; UXOR",
                "CV/Nova": "CV; UG; UGSS; UGSU; UGZ; UGER; UGWZ; NL; N; NA; NB; NR; AM; IBWD; DQ",
                "Periodic-Other": "ROT; BY; RS; ACV",
                DROP: "ELL; VAR; APER; NSIN; MISC; GCAS; BE; UV; UVN; DYPER; RCB; ZAND; QSO; AGN; BLLAC",
            }
        ),
    ),
}

#: Objects that the authors of the training set removed because their labels are wrong (notebook of 2020-09-16).
BAD_OIDS = frozenset(
    {
        "ZTF18abslpjy",
        "ZTF18acurqaw",
        "ZTF18aboebre",
        "ZTF18acvvsnu",
        "ZTF19aaydpzi",
        "ZTF19aatevrp",
        "ZTF18abtteyy",
        "ZTF19aatmtne",
        "ZTF18abtfgqr",
        "ZTF18acetlrs",
        "ZTF18abtmgfn",
        "ZTF18acvvppd",
        "ZTF18aczebty",
        "ZTF18acefhxx",
        "ZTF18acvhggp",
        "ZTF18adbktyj",
        "ZTF18aarcypa",
        "ZTF18accngee",
        "ZTF18acwvcbz",
        "ZTF19aacypbw",
        "ZTF18acenqto",
        "ZTF19aapfnym",
        "ZTF18acpefgk",
        "ZTF18aavjcpf",
        "ZTF18aceexmi",
        "ZTF18accnmri",
        "ZTF18acdvvgx",
        "ZTF18accnbgw",
        "ZTF18acemhyb",
        "ZTF19abqrrto",
        "ZTF19aadolpe",
        "ZTF18abxbmqh",
        "ZTF20aacbwbm",
    }
)

#: Other spellings of our classes in published tables of labels.
SPELLINGS: dict[str, str] = {
    squash(name): ours
    for ours, names in {
        "CEP": ("Ceph", "Cepheid"),
        "E": ("EA", "EB", "EW", "EB/EW"),
        "CV/Nova": ("CV", "Nova", "CVNova", "CV Nova"),
        "Periodic-Other": ("RSCVn", "Periodic/Other"),
        "SNII": ("SNIIn", "SN II", "SN IIn"),
        "SNIa": ("SN Ia",),
        "SNIbc": ("SNIb", "SNIc", "SN Ib/c"),
        "RRL": ("RRLyr", "RR Lyrae"),
        "DSCT": ("Delta Scuti",),
    }.items()
    for name in names
}
