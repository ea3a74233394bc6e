"""The ordered list of the 152 features, and the version of their definitions."""

from __future__ import annotations

from alerce_spark.features.curves import per_band

#: Must change when the value of any feature can change for the same light curve; stored with every row of features.
FEATURES_VERSION = "1.0.0"

#: The 65 features of one band, in alphabetical order.
BAND_FEATURES = (
    "Amplitude",
    "AndersonDarling",
    "Autocor_length",
    "Beyond1Std",
    "Con",
    "Eta_e",
    "ExcessVar",
    "GP_DRW_sigma",
    "GP_DRW_tau",
    "Gskew",
    *(f"Harmonics_mag_{k}" for k in range(1, 8)),
    "Harmonics_mse",
    *(f"Harmonics_phase_{k}" for k in range(2, 8)),
    "IAR_phi",
    "LinearTrend",
    "MHPS_high",
    "MHPS_low",
    "MHPS_ratio",
    "MaxSlope",
    "Meanvariance",
    "MedianAbsDev",
    "MedianBRP",
    "PairSlopeTrend",
    "PercentAmplitude",
    "Psi_CS",
    "Psi_eta",
    "Pvar",
    "Q31",
    "Rcs",
    "SF_ML_amplitude",
    "SF_ML_gamma",
    "SPM_A",
    "SPM_beta",
    "SPM_chi",
    "SPM_gamma",
    "SPM_t0",
    "SPM_tau_fall",
    "SPM_tau_rise",
    "Skew",
    "SmallKurtosis",
    "Std",
    "StetsonK",
    "delta_mag_fid",
    "delta_period",
    "dmag_first_det_fid",
    "dmag_non_det_fid",
    "last_diffmaglim_before_fid",
    "max_diffmaglim_after_fid",
    "max_diffmaglim_before_fid",
    "median_diffmaglim_after_fid",
    "median_diffmaglim_before_fid",
    "n_non_det_after_fid",
    "n_non_det_before_fid",
    "positive_fraction",
)

#: The 22 features of the object as a whole.
OBJECT_FEATURES = (
    "Multiband_period",
    "PPE",
    "Power_rate_1/4",
    "Power_rate_1/3",
    "Power_rate_1/2",
    "Power_rate_2",
    "Power_rate_3",
    "Power_rate_4",
    "g-r_max",
    "g-r_max_corr",
    "g-r_mean",
    "g-r_mean_corr",
    "gal_b",
    "gal_l",
    "rb",
    "sgscore1",
    "W1-W2",
    "W2-W3",
    "g-W2",
    "g-W3",
    "r-W2",
    "r-W3",
)

#: The columns of a feature matrix: 65 of g (suffix `_1`), 65 of r (`_2`), 22 of the object.
FEATURES = (*per_band(BAND_FEATURES), *OBJECT_FEATURES)
