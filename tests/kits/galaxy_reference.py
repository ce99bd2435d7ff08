"""The made-up Galaxy once more, one star at a time in plain Python: what the arrays must equal.

Numbers (fractions, coefficients) are taken from the tables of the code; every step is written anew.
"""

from math import asin, atan2, cos, degrees, exp, hypot, log, log10, pi, radians, sin, sqrt
from statistics import NormalDist

from scalespec.kernels import abundances, families, galaxy, kiel, orbits, photometry, stellar
from scalespec.kernels.families import Recipe

WORD = 2**64
GAUSS = NormalDist()


def mixed(x):
    """SplitMix64's output function on a Python integer."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def words(n, seed, kind, index, attempt=0):
    """The first n uniform numbers of a key."""
    golden = 0x9E3779B97F4A7C15
    key = mixed((seed + golden) % WORD)
    for part in (kind, index % WORD, attempt):
        key = mixed(key ^ mixed((part + golden) % WORD))
    return [((mixed((key + (i + 1) * golden) % WORD) >> 11) + 0.5) / 2**53 for i in range(n)]


def poly(terms, x, z):
    """A polynomial of the Kiel diagram."""
    return sum(c * x**p * z**q for (p, q), c in terms.items())


def cut(x, low, high):
    """The nearest number within a range."""
    return min(max(x, low), high)


def interpolate(x, xs, ys):
    """Linear interpolation between points of growing x, constant outside."""
    if x <= xs[0]:
        return ys[0]
    for i in range(1, len(xs)):
        if x <= xs[i]:
            return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])
    return ys[-1]


def family(seed, star, elements, recipe):
    """Age, metals, abundances and place of a star's family."""
    pair = words(1, seed, 4, star // 2)[0] < recipe.pair
    member = words(1, seed, 5, star)[0] < recipe.cluster / (1 - recipe.pair) and not pair
    index = -1 - star // 1000 if member else star - star % 2 if pair else star
    u, z = words(8, seed, 3, index), [GAUSS.inv_cdf(x) for x in words(41, seed, 7, index)]
    globular = member and u[1] < 0.3
    population = 3 if globular else 1
    if not member:
        edges = [recipe.very_metal_poor, recipe.halo, recipe.thick, recipe.young]
        passed = sum(u[0] >= sum(edges[: i + 1]) for i in range(4))
        population = (4, 3, 2, 0, 1)[passed]
    if population == 4:
        fe_h = -2 + log10(1 - u[2] * (1 - 10.0 ** (families.POOREST + 2)))
    else:
        mean, sigma, low, high = families._METALS[population]
        a, b = (GAUSS.cdf((x - mean) / sigma) for x in (low, high))
        fe_h = mean + sigma * GAUSS.inv_cdf(a + u[2] * (b - a))
    young, old = families._AGES[min(population, 3)]
    age = young + u[3] * (old - young)
    low, high = cut(0.03 - 0.14 * fe_h, 0, 0.15), cut(0.18 - 0.14 * fe_h, 0.05, 0.35)
    alpha = low if population < 2 else high
    chance = interpolate(fe_h, [-4, -3, -2, -1.5], [0.8, 0.4, 0.15, 0]) * recipe.cemp_boost
    rich = 2 if u[5] < (0.7 if fe_h > -3 else 0.1) else 1
    cemp = rich if u[4] < chance and not globular else 0
    made = {"population": population, "fe_h": fe_h, "age": age, "alpha": alpha, "cemp": cemp}
    made |= {"pair": star ^ 1 if pair else -1, "cluster": star // 1000 if member else -1}
    made |= {f"{el}_fe": born(el, made, z[3:]) for el in elements}
    ra0, dec0 = field(seed, star // 1000)
    v = words(4, seed, 6, index)
    ra, dec = away(ra0, dec0, (1.5 if member else 2.3) * sqrt(v[0]), v[1])
    sin_b = dot(galaxy.TO_GALACTIC[2], axes(ra, dec)[0])
    return made | {
        "index": index, "ra": ra, "dec": dec, "sin_b": sin_b, "distance_u": v[3],
        "dust": 10 ** (0.15 * GAUSS.inv_cdf(v[2])), "motion": z[:3], "shared": u[6:8],
    }  # fmt: skip


def born(el, made, z):
    """One [X/Fe] at birth."""
    element, fe_h, halo = abundances.ELEMENTS[el], made["fe_h"], made["population"] >= 3
    own = z[4 + list(abundances.ELEMENTS).index(el)]
    if el == "c" and made["cemp"]:
        return 0.7 + 0.45 * abs(own) - 0.15 * min(fe_h + 2, 0)
    value = element.slope * cut(fe_h, -3.5, 0) + element.own * own
    value += element.alpha * (0.025 * z[0] + made["alpha"])
    value += element.s * (0.06 * z[1] + (0 if halo else 0.025 * (5 - min(made["age"], 10))))
    value += element.r * (0.25 if halo else 0.05) * z[2]
    value += element.odd * (0.03 * z[3] + 0.1 * cut(fe_h, -2, 0.4))
    value += abundances._EXCESS.get(made["cemp"], {}).get(el, 0)
    return min(value, 0.69) if el == "c" else value


def field(seed, number):
    """Center of a field."""
    u = words(2, seed, 2, number)
    low, high = (sin(radians(x)) for x in galaxy.DEC_RANGE)
    return 360 * u[0], degrees(asin(low + (high - low) * u[1]))


def away(ra, dec, radius, turn):
    """A place some degrees away."""
    d, a, r = radians(dec), 2 * pi * turn, radians(radius)
    sin_dec = sin(d) * cos(r) + cos(d) * sin(r) * cos(a)
    east = atan2(sin(a) * sin(r) * cos(d), cos(r) - sin(d) * sin_dec)
    return (ra + degrees(east)) % 360, degrees(asin(sin_dec))


def axes(ra, dec):
    """Outward, east and north."""
    a, d = radians(ra), radians(dec)
    out = (cos(d) * cos(a), cos(d) * sin(a), sin(d))
    return out, (-sin(a), cos(a), 0.0), (-sin(d) * cos(a), -sin(d) * sin(a), cos(d))


def dot(a, b):
    """Of two vectors."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def curves(age, m_h):
    """Turn-off and foot of the giant branch."""
    x, z = log10(age) - 1, cut(m_h, -2.2, 0.5)
    drop, width = max(poly(kiel._DROP, x, z), 0.1), max(poly(kiel._WIDTH, x, z), 0.03)
    mass, teff, logg = (
        poly(t, x, z) for t in (kiel._TURNOFF_MASS, kiel._TURNOFF_TEFF, kiel._TURNOFF_LOGG)
    )
    return 10**mass, 10**teff, logg, drop, width


def branch(logg, age, m_h):
    """Teff of the giant branch."""
    g, z = min(logg, 3.6) - 2.5, cut(m_h, -2.2, 0.5)
    teff = 4547 + 463 * g - 41 * g**2 - 473 * z - 58 * z**2 + 16 * g * z
    return teff - 117 * (log10(age) - 1) + 120 * max(logg - 3.6, 0)


def dwarf(mass, age, m_h):
    """Teff and log g on the main sequence."""
    z, c = cut(m_h, -2.2, 0.5), kiel._TURNOFF_MASS
    mass = max(min(mass, curves(age, m_h)[0]), 0.45)
    k0 = c[0, 0] + c[0, 1] * z + c[0, 2] * z * z - log10(mass)
    k1, k2 = c[1, 0] + c[1, 1] * z, c[2, 0]
    life = 10 ** (1 + (-k1 - sqrt(max(k1 * k1 - 4 * k2 * k0, 0))) / (2 * k2))
    lived, fades = cut(age / life, 0, 1), min(1, 20 / life)
    x, m = log10(min(life, 20)) - 1, log10(mass)
    t0, g0 = poly(kiel._YOUNG_TEFF, m, z), poly(kiel._YOUNG_LOGG, m, z)
    t1, g1 = poly(kiel._TURNOFF_TEFF, x, z), poly(kiel._TURNOFF_LOGG, x, z)
    return 10 ** (t0 + lived * fades * (t1 - t0)), g0 + lived**2 * min(fades * (g1 - g0), 0)


def young(m, lived, m_h):
    """Teff and log g of hot stars."""
    light = (0.3970417 * m**5.5 + 8.527626 * m**11) / (
        0.00025546
        + m**3
        + 5.432889 * m**5
        + 5.563579 * m**7
        + 0.7886606 * m**8
        + 0.00586685 * m**9.5
    )
    radius = (
        1.715359 * m**2.5 + 6.597788 * m**6.5 + 10.08855 * m**11 + 1.012495 * m**19
        + 0.07490166 * m**19.5
    ) / (
        0.01077422 + 3.082234 * m**2 + 17.84778 * m**8.5 + m**18.5 + 0.00022582 * m**19.5
    )  # fmt: skip
    teff = 5772 * light**0.25 / sqrt(radius) * 10 ** (-0.097 * lived**2 - 0.03 * m_h)
    return teff, 4.438 + log10(m) - 2 * log10(radius) - 0.7 * lived**1.3


def place(phase, w, age, m_h):
    """Teff, log g, mass and age of a phase."""
    most, t_top, top, drop, width = curves(age, m_h)
    base, p, least = top - drop - 2 * width, w["place"], cut(0.58 + 0.13 * m_h, 0.45, 0.65)
    if phase == 0:
        mass = least + (min(most, 1.65) - least) * p**0.8
        return *dwarf(mass, age, m_h), mass, age
    if phase == 6:
        mass = 1 / (1 / 1.5 - p * (1 / 1.5 - 1 / 15))
        return *young(mass, w["lived"], m_h), mass, w["lived"] * (0.008 + 10 * mass**-2.8)
    jitter = 0.05 * GAUSS.inv_cdf(w["lived"])
    if phase == 3:
        return (
            4790 - 250 * m_h + 120 * (p - 0.5),
            2.42 - 0.06 * m_h + 0.1 * (p - 0.5) + jitter,
            most,
            age,
        )
    if phase == 5:
        t = log10(7500) + log10(4) * p**1.8
        light = 1.62 - 0.9 * max(t - log10(12000), 0)
        return 10**t, 4.438 + log10(0.58) + 4 * (t - log10(5772)) - light + jitter, 0.58, age
    logg = {1: top - 0.03 - (top - 0.03 - base) * p, 2: base - (base - 0.9) * p**1.4}.get(
        phase, 0.9 - 0.8 * p
    )
    across = 1 / (1 + exp(-cut((logg - top + drop) / width, -50, 50)))
    teff = branch(logg, age, m_h) + (t_top - branch(top, age, m_h)) * across * (
        1 + exp(-drop / width)
    )
    return teff, logg, most * (1 + 0.05 * cut((top - logg) / 0.9, 0, 1)), age


def labels_of(teff, logg, blue, w, home):
    """Labels of one's own."""
    cool = teff < 7000
    depth = 1 / (1 + exp(-(3.2 - logg) / 0.1)) if cool else 0
    above = cut(2.2 - logg, 0, 2) if cool else 0
    tilt = sqrt(1 - w["tilt"] ** 2)
    rayleigh = sqrt(-2 * log(w["spin"])) * tilt
    if blue:
        vsini = (12 if teff < 11500 else 2) * rayleigh
    elif teff > 7500 and logg > 3:
        vsini = 130 * rayleigh
    else:
        rise = 1.4 * cut((teff - 6250) / 1250, 0, 1)
        vsini = 10 ** (0.35 + 0.2 * GAUSS.inv_cdf(w["spin"]) + rise)
    return {
        "teff": teff,
        "logg": logg,
        "vmic": cut(2.13 - 0.23 * logg + 0.1 * GAUSS.inv_cdf(w["vmic"]), 0.5, 3),
        "vmac": cut(3.5 + 0.003 * (teff - 5500) + GAUSS.inv_cdf(w["vmac"]), 0.5, 20),
        "vsini": max(vsini, 0.5),
        "he_h": 0.03 * GAUSS.inv_cdf(w["helium"]) - (0.7 if blue and teff > 11500 else 0),
        "c_fe": home["c_fe"] - 0.13 * depth - 0.125 * above + 0.03 * GAUSS.inv_cdf(w["carbon"]),
        "n_fe": home["n_fe"] + 0.25 * depth + 0.175 * above + 0.03 * GAUSS.inv_cdf(w["nitrogen"]),
    }


def companion(star, w, company, home, recipe):
    """The companion's labels and the orbit."""
    mass, age, m_h, hot = star["mass"], star["age"], home["m_h"], star["phase"] == 6
    kind = (
        "binary"
        if company < recipe.binary
        else "dark"
        if company < recipe.binary + recipe.dark
        else ""
    )
    orbit = {
        "binary": kind == "binary",
        "mass_ratio": 0.0,
        "period": 0.0,
        "k_1": 0.0,
        "area_2": 0.0,
    }
    orbit["orbit_phase"] = 0.0
    if not kind:
        return orbit
    least = min(cut(0.58 + 0.13 * m_h, 0.45, 0.65), 0.98 * mass)
    most = max(mass if hot else min(mass, curves(age, m_h)[0]), least)
    q = w["mass_ratio"]
    mass_2 = least + (most - least) * q if kind == "binary" else 0.2 + 0.4 * q
    sin_i, radius = sqrt(1 - w["orbit_tilt"] ** 2), sqrt(mass * 10 ** (4.438 - star["logg"]))
    shortest = log10(0.1158 * sqrt((3 * radius) ** 3 / (mass + mass_2)))
    low, high = (
        GAUSS.cdf((x - orbits.MEAN_LOG_PERIOD) / orbits.SIGMA_LOG_PERIOD)
        for x in (min(shortest, 5.4), 5.5)
    )
    days = 10 ** (5.03 + 2.28 * GAUSS.inv_cdf(low + w["period"] * (high - low)))
    speed = (2 * pi * 1.32712440018e11 / 86400) ** (1 / 3)
    k_1 = speed * sin_i * mass_2 / ((mass + mass_2) ** (2 / 3) * days ** (1 / 3))
    orbit |= {
        "mass_ratio": mass_2 / mass,
        "period": days,
        "k_1": k_1,
        "orbit_phase": w["orbit_phase"],
    }
    if kind == "dark":
        return orbit
    teff, logg = dwarf(mass_2, age, m_h)
    if hot and mass_2 > 1.5:
        teff, logg = young(mass_2, min(age / (0.008 + 10 * mass_2**-2.8), 1), m_h)
    other = w | {"spin": w["mass_ratio"], "tilt": w["orbit_tilt"]}
    second = labels_of(teff, logg, False, other, home)
    orbit["area_2"] = mass_2 / mass * 10 ** (star["logg"] - logg)
    return orbit | {f"{name}_2": value for name, value in second.items()}


def magnitude(teff, logg, mass):
    """Absolute G."""
    light = log10(mass) - logg + 4.438 + 4 * log10(teff / 5772)
    return 4.74 - 2.5 * light - color("bc_g", teff)


def color(name, teff):
    """From the table of colors."""
    return interpolate(log(teff), [log(t) for t in photometry._TEFF], photometry._COLORS[name])


def dust(distance, home):
    """E(B - V)."""
    depth = abs(home["sin_b"]) / 0.125
    return 0.45 * home["dust"] * (1 - exp(-depth * distance)) / depth


def faintest(absolute, home):
    """Distance modulus at the survey's limit."""
    low, high = 0.0, max(stellar.FAINT - absolute, 0)
    for _ in range(20):
        middle = (low + high) / 2
        if absolute + middle + 2.5 * dust(10 ** (middle / 5 - 2), home) > stellar.FAINT:
            high = middle
        else:
            low = middle
    return low


def distance(star, home, u):
    """Distance and what depends on it."""
    bright = magnitude(star["teff"], star["logg"], star["mass"])
    flux = 0.0
    if star["binary"]:
        faint = magnitude(star["teff_2"], star["logg_2"], star["mass"] * star["mass_ratio"])
        flux = 10 ** (-0.4 * (faint - bright))
    absolute = bright - 2.5 * log10(1 + flux)
    population = home["population"]
    end = min(galaxy._HIGHEST[population] / abs(home["sin_b"]), galaxy._FARTHEST[population])
    if home["pair"] >= 0 or home["cluster"] >= 0:
        globular = home["cluster"] >= 0 and population == 3
        low, high, typical = (-1.1, 0.0, 5.0) if home["pair"] >= 0 else (-0.5, 0.6, 3.5)
        if globular:
            low, high, typical = 0.6, 1.2, 0.5
        far = min(faintest(typical, home), 5 * log10(end) + 10)
        modulus = min(5 * (low + (high - low) * home["distance_u"]) + 10, far)
    else:
        far = min(faintest(absolute, home), 5 * log10(end) + 10)
        near, slope = min(max(stellar.BRIGHT - absolute, 0), far - 1), 0.2 * log(10)
        modulus = near + log(1 + u * (exp(slope * (far - near)) - 1)) / slope
    d = 10 ** (modulus / 5 - 2)
    ebv = dust(d, home)
    g = absolute + modulus + 2.5 * ebv
    k = g - 2.5 * ebv - color("g_k", star["teff"])
    return {
        "distance": d, "parallax": 1 / d, "ebv": ebv, "g": g, "flux_2": flux / (1 + flux),
        "bp_rp": color("bp_rp", star["teff"]) + 1.3 * ebv, "k": k + 0.31 * ebv,
        "j": k + color("j_k", star["teff"]) + 0.72 * ebv,
    }  # fmt: skip


def motion(star, home, w, number):
    """Place and motion."""
    d, population = star["distance"], home["population"]
    x, y, _ = (d * dot(row, axes(home["ra"], home["dec"])[0]) for row in galaxy.TO_GALACTIC)
    x -= 8.178
    r = hypot(x, y)
    heat = (cut(star["age"], 1, 10) / 5) ** 0.33 if population == 1 else 1
    radial, turning, up = (
        s * heat * z for s, z in zip(galaxy._DISPERSION[population], home["motion"], strict=True)
    )
    turning += 233.4 - galaxy._LAG[population]
    inside, globular = home["cluster"] >= 0, population != 1
    own = (5.0 if globular else 0.6) if inside else 0.0
    extra = [own * GAUSS.inv_cdf(w[f"move_{i}"]) for i in range(3)]
    moves = [
        (radial * x + turning * y) / r - galaxy.SUN_KMS[0] + extra[0],
        (radial * y - turning * x) / r - galaxy.SUN_KMS[1] + extra[1],
        up - galaxy.SUN_KMS[2] + extra[2],
    ]
    reach, turn = 0.0, home["shared"][1]
    if inside:
        reach, turn = (0.05 if globular else 0.12) * sqrt(-2 * log(w["away"])), w["turn"]
    elif home["pair"] >= 0 and number % 2:
        reach = 10 ** (0.7 + 1.5 * home["shared"][0]) / 3600
    ra, dec = away(home["ra"], home["dec"], reach, turn)
    space = [dot(column, moves) for column in galaxy.TO_GALACTIC.T]
    out, east, north = (dot(axis, space) for axis in axes(ra, dec))
    return {
        "ra": ra,
        "dec": dec,
        "rv": out,
        "pmra": east / 4.740470463 / d,
        "pmdec": north / 4.740470463 / d,
    }


def draw(seed, number, elements, recipe=None):
    """Everything of one star, at the first try."""
    recipe = recipe or Recipe()
    home = family(seed, number, elements, recipe)
    home["m_h"] = home["fe_h"] + log10(0.638 * 10 ** home["alpha"] + 0.362)
    w = dict(zip(stellar._WORDS, words(len(stellar._WORDS), seed, 1, number), strict=True))
    phase_u, company, catalog = words(3, seed, 8, number)
    blue = recipe.blue if home["population"] >= 3 else 0
    rest = (phase_u - blue) / (1 - blue)
    phase = sum(rest >= sum(stellar.SHARES[: i + 1]) for i in range(4))
    phase = 6 if home["population"] == 0 else 5 if phase_u < blue else phase
    teff, logg, mass, age = place(phase, w, home["age"], home["m_h"])
    star = {"phase": phase, "mass": mass, "catalog": catalog}
    star |= {name: value for name, value in home.items() if name.endswith("_fe")}
    star |= {name: home[name] for name in ("population", "fe_h", "cemp", "pair", "cluster")}
    star |= {"age": age} | labels_of(teff, logg, phase == 5, w, home)
    star |= companion(star, w, company, home, recipe)
    star |= distance(star, home, w["distance"])
    return star | motion(star, home, w, number)
