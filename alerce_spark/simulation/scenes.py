"""Images of a patch of sky: science, reference and difference stamp of each alert, one compiled loop.

`stamps.py` defines the content of the patch, this module draws it. Figures without a source come from 416 real packets:
Moffat profiles of slope 3 (science and reference) and 3.6 (difference), noise of the reference a fifth of that of the
science image and correlated by a quarter between neighbouring pixels, residuals of static sources of 3 % of a pixel.
In a difference image of a source that has faded the survey swaps sides: reference minus science, so the candidate is
positive there whatever its sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from alerce_spark.alerts.stamps import CENTRE, SIDE
from alerce_spark.simulation.randoms import _mix

#: Columns of the table of alerts. Fluxes in DN, lengths in pixels, angles in radians.
(
    X, Y, FLUX, SIGN, SEEING, TEMPLATE_SEEING, ELONGATION, ANGLE, NOISE, TEMPLATE_NOISE, SKY, FORM, TRAIL, TRAIL_ANGLE,
    MASK, MASK_X, MASK_Y, MASK_SIZE,
) = range(18)  # fmt: skip
N_ALERT = 18
#: Columns of the table of sources (n, sources, N_SOURCE): place, flux on the reference, half-light radius (0: a point),
#: axis ratio, angle, and share of the flux in a point in its middle.
S_X, S_Y, S_FLUX, S_RADIUS, S_RATIO, S_ANGLE, S_POINT = range(7)
N_SOURCE = 7
#: Forms of the candidate: a real change, or one of the artefacts.
(
    REAL, BAD_SUBTRACTION, COSMIC_RAY, BAD_COLUMN, GHOST, SPIKE, SATELLITE, NOISE_PEAK,
) = range(8)  # fmt: skip
N_FORMS = 8
#: Pixels without a value: none, a box around a bright star, columns on the left or right, rows below or above.
NO_MASK, BOX, LEFT, RIGHT, BELOW, ABOVE = range(6)

#: Electrons per DN, frames in a reference, and DN at which a pixel is full.
GAIN, FRAMES, FULL = 6.2, 15.0, 32000.0
_SLOPE, _SHARP_SLOPE = 3.0, 3.6


@njit(cache=True)
def _uniform(state: Any) -> Any:
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return (np.float64(_mix(state[0]) >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(cache=True)
def _normal(state: Any) -> Any:
    radius = np.sqrt(-2.0 * np.log(_uniform(state)))
    return radius * np.cos(2.0 * np.pi * _uniform(state))


@njit(cache=True)
def _fill_normal(state: Any, out: Any) -> None:
    """Standard normal deviates for every element, two from each pair of uniform ones."""
    flat = out.ravel()
    for i in range(0, flat.size, 2):
        radius = np.sqrt(-2.0 * np.log(_uniform(state)))
        turn = 2.0 * np.pi * _uniform(state)
        flat[i] = radius * np.cos(turn)
        if i + 1 < flat.size:
            flat[i + 1] = radius * np.sin(turn)


@njit(cache=True)
def _moffat(image: Any, x: Any, y: Any, flux: Any, fwhm: Any, slope: Any, ratio: Any, angle: Any, least: Any) -> None:
    """Add a Moffat profile of total `flux`, down to the level `least`."""
    core = fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / slope) - 1.0))
    peak = flux * (slope - 1.0) / (np.pi * core * core)
    if np.abs(peak) < least:
        return
    reach = core * np.sqrt((np.abs(peak) / least) ** (1.0 / slope))
    c, s = np.cos(angle), np.sin(angle)
    along = 1.0 / (core * core * ratio)
    across = ratio / (core * core)
    for v in range(max(0, int(y - reach)), min(SIDE, int(y + reach) + 2)):
        for u in range(max(0, int(x - reach)), min(SIDE, int(x + reach) + 2)):
            dx, dy = u - x, v - y
            a, b = c * dx + s * dy, c * dy - s * dx
            base = 1.0 / (1.0 + a * a * along + b * b * across)
            # slope 3 without a logarithm: most pixels of most sources
            image[v, u] += peak * (base * base * base if slope == 3.0 else base**slope)


@njit(cache=True)
def _galaxy(image: Any, source: Any, fwhm: Any, part: Any, work: Any) -> None:
    """Add an exponential disc (Sérsic 1968, index 1) of total flux `part`, blurred at its middle, with weak arms."""
    x, y, radius, ratio, angle = source[S_X], source[S_Y], source[S_RADIUS], source[S_RATIO], source[S_ANGLE]
    scale, soft = radius / 1.678, 0.35 * fwhm * fwhm
    reach = 7.0 * scale + 2.0 * fwhm
    c, s = np.cos(angle), np.sin(angle)
    # Blurring makes small discs rounder.
    q = np.sqrt((ratio * ratio * radius * radius + soft) / (radius * radius + soft))
    low_v, high_v = max(0, int(y - reach)), min(SIDE, int(y + reach) + 2)
    low_u, high_u = max(0, int(x - reach)), min(SIDE, int(x + reach) + 2)
    arms = 0.35 if radius > 5.0 else 0.0
    total = 0.0
    for v in range(low_v, high_v):
        for u in range(low_u, high_u):
            a, b = c * (u - x) + s * (v - y), (c * (v - y) - s * (u - x)) / q
            square = a * a + b * b
            value = np.exp(-(np.sqrt(square + soft) - np.sqrt(soft)) / scale)
            if arms > 0.0:
                value *= 1.0 + arms * np.cos(2.0 * np.arctan2(b, a) - 3.0 * np.log(square + 1.0)) * (
                    square / (square + 9.0)
                )
            work[v, u] = value
            total += value
    # Of a disc near the border of the stamp only the part inside was summed: its whole flux has a formula.
    whole = 2.0 * np.pi * q * scale * (scale + np.sqrt(soft))
    norm = part / max(total, whole)
    for v in range(low_v, high_v):
        for u in range(low_u, high_u):
            image[v, u] += norm * work[v, u]


@njit(cache=True)
def _static(image: Any, sources: Any, fwhm: Any, ratio: Any, angle: Any, least: Any, work: Any) -> None:
    """Add all sources of a patch."""
    for k in range(sources.shape[0]):
        flux = sources[k, S_FLUX]
        if flux <= 0.0:
            continue
        points = flux
        if sources[k, S_RADIUS] > 0.0:
            points = flux * sources[k, S_POINT]
            _galaxy(image, sources[k], fwhm, flux - points, work)
        _moffat(image, sources[k, S_X], sources[k, S_Y], points, fwhm, _SLOPE, ratio, angle, least)
        if flux > 60000.0:  # spikes of bright stars along the rows
            y = int(np.rint(sources[k, S_Y]))
            for v in range(max(0, y - 2), min(SIDE, y + 3)):
                level = 1.2e-4 * flux * np.exp(-0.7 * (v - sources[k, S_Y]) ** 2)
                for u in range(SIDE):
                    image[v, u] += level * np.exp(-np.abs(u - sources[k, S_X]) / 9.0)


@njit(cache=True)
def _residuals(image: Any, sources: Any, fwhm: Any, state: Any, least: Any) -> None:
    """Add subtraction residuals of static sources, from shift, width and scale, and ringing along columns."""
    shift_x, shift_y, width = 0.035 * _normal(state), 0.035 * _normal(state), 0.012 * _normal(state)
    for k in range(sources.shape[0]):
        dx, dy = shift_x + 0.03 * _normal(state), shift_y + 0.03 * _normal(state)
        wider, scale = width + 0.012 * _normal(state), 1.0 + 0.006 * _normal(state)
        ring, phase = 0.001 * np.exp(0.8 * _normal(state)), _normal(state)
        flux = sources[k, S_FLUX]
        if sources[k, S_RADIUS] > 0.0:
            flux *= sources[k, S_POINT] + 0.3 * (1.0 - sources[k, S_POINT]) * fwhm / (fwhm + sources[k, S_RADIUS])
        x, y = sources[k, S_X], sources[k, S_Y]
        if 0.005 * flux < least:
            continue
        _moffat(image, x + dx, y + dy, flux * scale, fwhm * (1.0 + wider), _SLOPE, 1.0, 0.0, 0.3 * least)
        _moffat(image, x, y, -flux, fwhm, _SLOPE, 1.0, 0.0, 0.3 * least)
        if ring * flux < 0.5 * least or flux < 5000.0:
            continue
        length = 1.5 + 1.5 * np.log(ring * flux / least + 1.0)
        column = int(np.rint(x))
        for v in range(SIDE):
            away = np.abs(v - y)
            if away > 1.5:
                size = ring * flux * np.exp(-away / length) * (1.0 - 2.0 * (v % 2)) * np.sign(phase)
                for u in range(max(0, column - 1), min(SIDE, column + 2)):
                    image[v, u] += size * (1.0 if u == column else 0.4 * phase)


@njit(cache=True)
def _line(image: Any, x: Any, y: Any, angle: Any, width: Any, level: Any, fade: Any) -> None:
    """Add a straight line through x, y with a Gaussian cross-section, weaker with the distance along it."""
    c, s = np.cos(angle), np.sin(angle)
    for v in range(SIDE):
        for u in range(SIDE):
            along, across = c * (u - x) + s * (v - y), c * (v - y) - s * (u - x)
            if np.abs(across) < 4.0 * width:
                image[v, u] += level * np.exp(-0.5 * (across / width) ** 2) * np.exp(along / fade)


@njit(cache=True)
def _artefact(image: Any, alert: Any, state: Any, least: Any) -> None:
    """Add an artefact: an excess in the middle whose flux within five pixels is about that of the candidate."""
    x, y, flux, fwhm, form = alert[X], alert[Y], alert[FLUX], alert[SEEING], int(alert[FORM])
    angle = np.pi * _uniform(state)
    if form == BAD_SUBTRACTION:
        apart = 0.35 * fwhm * (0.4 + _uniform(state))
        c, s = apart * np.cos(2.0 * angle), apart * np.sin(2.0 * angle)
        wider = 0.85 + 0.3 * _uniform(state)
        strength = flux * (1.0 + 1.5 * _uniform(state))
        lost = 0.55 + 0.4 * _uniform(state)
        _moffat(image, x, y, strength, fwhm, _SHARP_SLOPE, 1.0, 0.0, 0.3 * least)
        _moffat(image, x - c, y - s, -lost * strength, fwhm * wider, _SHARP_SLOPE, 1.0, 0.0, 0.3 * least)
        ring = 0.03 * strength * _uniform(state)
        column = int(np.rint(x))
        for v in range(SIDE):
            image[v, column] += ring * (1.0 - 2.0 * (v % 2)) * np.exp(-np.abs(v - y) / 7.0)
    elif form == COSMIC_RAY:
        length = 1.0 + 6.0 * _uniform(state) ** 3
        steps = int(4 * length)
        for k in range(steps):
            at = length * ((k + 0.5) / steps - 0.5)
            u, v = int(np.rint(x + at * np.cos(angle))), int(np.rint(y + at * np.sin(angle)))
            image[v, u] += flux * (0.6 + 0.8 * _uniform(state)) / steps
    elif form == BAD_COLUMN:
        width, column = 1 + int(2 * _uniform(state)), int(np.rint(x))
        begin = int(2 * _uniform(state)) * int(SIDE * 0.45 * _uniform(state))
        for v in range(begin, SIDE):
            image[v, column : column + width] += flux / (11.0 * width) * (0.7 + 0.6 * _uniform(state))
    elif form == GHOST:
        size, hollow = 3.0 + 9.0 * _uniform(state), 0.9 * _uniform(state)
        level = flux / (2.0 * np.pi * min(size, 4.0) ** 2)
        # The candidate is found on the ghost, seldom in its middle.
        gx, gy = x + 0.5 * size * _normal(state), y + 0.5 * size * _normal(state)
        for v in range(SIDE):
            for u in range(SIDE):
                r = ((u - gx) ** 2 + (v - gy) ** 2) / (size * size)
                image[v, u] += level * (np.exp(-0.5 * r) - hollow * np.exp(-1.5 * r))
        _moffat(image, x, y, 0.5 * flux, 1.2 * fwhm, _SLOPE, 1.5, angle, least)
    elif form == SPIKE:
        level = flux / (11.0 * 2.5)
        choice = _uniform(state)
        turn = 0.0 if choice < 0.6 else (0.785 if choice < 0.8 else 2.356)
        turn += np.pi * int(2 * _uniform(state))
        _line(image, x, y, turn, 0.5 + 0.5 * _uniform(state), level, 8.0 + 20.0 * _uniform(state))
    elif form == SATELLITE:
        _line(image, x, y, angle, fwhm / 2.2, flux / (11.0 * fwhm), 1e9)
    else:
        for _ in range(2 + int(3 * _uniform(state))):
            u, v = x + 1.1 * _normal(state), y + 1.1 * _normal(state)
            _moffat(image, u, v, 0.3 * flux * (0.6 + 0.8 * _uniform(state)), 1.3, _SHARP_SLOPE, 1.0, 0.0, 0.3 * least)


@njit(cache=True)
def _change(image: Any, alert: Any, fwhm: Any, slope: Any, least: Any) -> None:
    """Add the candidate's change of flux, elongated if it moved during the exposure."""
    steps = 1 + int(2.0 * alert[TRAIL])
    for k in range(steps):
        at = alert[TRAIL] * ((k + 0.5) / steps - 0.5)
        x, y = alert[X] + at * np.cos(alert[TRAIL_ANGLE]), alert[Y] + at * np.sin(alert[TRAIL_ANGLE])
        ratio, angle = alert[ELONGATION], alert[ANGLE]
        _moffat(image, x, y, alert[FLUX] / steps, fwhm, slope, ratio, angle, least)


@njit(cache=True)
def _mask(images: Any, alert: Any) -> None:
    """Set the alert's masked pixels to NaN in all three images."""
    form, size = int(alert[MASK]), int(alert[MASK_SIZE])
    if form == BOX:
        x, y, half = int(alert[MASK_X]), int(alert[MASK_Y]), size / 2.0
        for v in range(SIDE):
            for u in range(SIDE):
                a, b = np.abs(u - x + 0.0), np.abs(v - y + 0.0)
                # masks of very bright stars have cut corners
                if a < half and b < half and (size < 20 or a + b < 1.4 * half):
                    images[:, v, u] = np.nan
    elif form == LEFT:
        images[:, :, :size] = np.nan
    elif form == RIGHT:
        images[:, :, SIDE - size :] = np.nan
    elif form == BELOW:
        images[:, :size] = np.nan
    elif form == ABOVE:
        images[:, SIDE - size :] = np.nan


@njit(cache=True)
def draw(keys: Any, alerts: Any, sources: Any, out: Any) -> None:
    """Draw n alerts into `out`, float32 (n, 3, 63, 63).

    keys: uint64 (n,). alerts: (n, N_ALERT). sources: (n, k, N_SOURCE).
    """
    state = np.zeros(1, np.uint64)
    science, template, residual = np.empty((SIDE, SIDE)), np.empty((SIDE, SIDE)), np.empty((SIDE, SIDE))
    change, work = np.empty((SIDE, SIDE)), np.empty((SIDE, SIDE))
    noise, new_noise, template_noise = np.empty((SIDE, SIDE)), np.empty((SIDE, SIDE)), np.empty((SIDE + 1, SIDE + 1))
    for i in range(keys.size):
        alert = alerts[i]
        state[0] = keys[i]
        sigma, template_sigma, sign = alert[NOISE], alert[TEMPLATE_NOISE], alert[SIGN]
        least = 0.2 * sigma
        science[:], template[:], residual[:], change[:] = 0.0, 0.0, 0.0, 0.0
        _static(template, sources[i], alert[TEMPLATE_SEEING], 1.0, 0.0, 0.5 * template_sigma, work)
        _static(science, sources[i], alert[SEEING], alert[ELONGATION], alert[ANGLE], least, work)
        _residuals(residual, sources[i], alert[SEEING], state, least)
        work[:] = 0.0
        if alert[FORM] == REAL:
            _change(work, alert, alert[SEEING], _SLOPE, least)
            science += sign * work
            _change(change, alert, alert[SEEING], _SHARP_SLOPE, least)
        else:
            _artefact(change, alert, state, least)
            if alert[FORM] != BAD_SUBTRACTION:
                science += sign * change
        slope_x, slope_y = 0.005 * _normal(state), 0.005 * _normal(state)
        _fill_normal(state, noise)
        _fill_normal(state, new_noise)
        _fill_normal(state, template_noise)
        for v in range(SIDE):
            for u in range(SIDE):
                level = alert[SKY] + slope_x * (u - CENTRE) + slope_y * (v - CENTRE)
                own_sigma = np.sqrt(sigma * sigma + max(science[v, u], 0.0) / GAIN)
                # Along rows neighbouring pixels of the detector share a little noise of opposite sign.
                after = (u + 1) % SIDE
                own = own_sigma * (noise[v, u] - 0.06 * noise[v, after])
                mixed = template_noise[v, u] + 0.27 * (template_noise[v, u + 1] + template_noise[v + 1, u])
                # 1.0705 is the root of the sum of the squares of the three weights
                other = np.sqrt(template_sigma**2 + template[v, u] / (GAIN * FRAMES)) * mixed / 1.0705
                out[i, 0, v, u] = min(level + science[v, u] + own, FULL * (1.0 + 0.02 * noise[v, u]))
                out[i, 1, v, u] = min(level + template[v, u] + other, 1.2 * FULL * (1.0 + 0.02 * noise[v, u]))
                # Matching and whitening mix the noise of pixels: its correlation with science - reference is 0.85.
                mixed = 0.85 * (own - other) + 0.53 * own_sigma * (new_noise[v, u] - 0.06 * new_noise[v, after])
                out[i, 2, v, u] = change[v, u] + sign * (residual[v, u] + mixed)
        _mask(out[i], alert)
