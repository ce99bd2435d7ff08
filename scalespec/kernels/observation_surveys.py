"""The instruments of the made-up surveys.

Wavelengths vacuum Å. The numbers are round ones that make spectra like the surveys': of LAMOST's
low resolution they were set beside real files (benchmarks/compare_mock_lamost.py), of the others by
what is published of them.
"""

from dataclasses import replace

import numpy as np

from scalespec.kernels.observation_instrument import Arm, Instrument, Lost

_LRS = Instrument(
    name="lamost_lrs",
    arms=(
        Arm(
            name="coadd",
            start=3.5682,
            step=1e-4,
            n_pixel=3909,
            # 3.05 Å in the blue arm, 3.75 Å and more in the red one
            resolving=((3700, 1215), (5500, 1800), (5850, 1800), (5950, 1590), (6750, 1800)),
            efficiency=(
                *((3690, 0.0006), (3800, 0.0013), (3950, 0.0022), (4100, 0.0034), (4350, 0.0052)),
                *((4750, 0.0083), (5250, 0.0094), (5550, 0.0085), (5700, 0.0046), (5800, 0.0042)),
                *((5950, 0.0085), (6250, 0.0130), (6750, 0.0190), (7250, 0.0215), (7750, 0.0195)),
                *((8250, 0.0165), (8700, 0.0110), (8950, 0.0075), (9060, 0.0045), (9110, 0.0015)),
            ),
            joins=(5900.0,),
        ),
    ),
    area=1.3e5,
    exposure=2400.0,
    sky_magnitude=17.6,
    read_noise=7.0,
    telluric_corrected=True,
    telluric_error=0.05,
    weather=0.25,
    slope=1.0,
    cosmic_rays=0.5,
    dead=0.0003,
    relative=True,
    unit=1.0,
)

INSTRUMENTS: dict[str, Instrument] = {
    # DR1: what is faint has no weight, the A band is cut out, arms may not meet.
    "lamost_lrs/pilot": replace(
        _LRS,
        exposure=3600.0,
        least_snr=1.0,
        lost=(
            Lost((7581, 7581), (7679, 7679), 1.0),
            Lost((5575, 5700), (5850, 6050), 0.12, empty=True),
            Lost((8950, 9090), (9200, 9200), 1.0),
            Lost((3600, 3600), (3700, 4150), 0.6),
        ),
    ),
    # DR2 to DR7: faint spectra begin at 3900 Å, a few detectors have a dead stretch.
    "lamost_lrs/image": replace(
        _LRS,
        unit=1.4,
        lost=(
            Lost((3600, 3600), (3900, 3900), 0.75, snr_below=90.0),
            Lost((7355, 7700), (8000, 8437), 0.05, flagged=True),
            Lost((8915, 9095), (9200, 9200), 0.3),
        ),
    ),
    "lamost_lrs/coadd": replace(
        _LRS, unit=8.0, dead=0.00003, lost=(Lost((9070, 9095), (9200, 9200), 0.5),)
    ),
    "lamost_mrs": Instrument(
        name="lamost_mrs",
        arms=(
            Arm(
                name="B",
                start=float(np.log10(4895.0)),
                step=1.12e-5,
                n_pixel=4200,
                bend=-3.5e-10,
                resolving=((4890, 6900), (5150, 7500), (5420, 7000)),
                efficiency=((4890, 0.010), (5150, 0.016), (5420, 0.013)),
            ),
            Arm(
                name="R",
                start=float(np.log10(6268.0)),
                step=1.03e-5,
                n_pixel=4200,
                bend=-3.5e-10,
                resolving=((6250, 7000), (6600, 7500), (6900, 6900)),
                efficiency=((6250, 0.025), (6600, 0.034), (6900, 0.025)),
            ),
        ),
        area=1.3e5,
        exposure=1200.0,
        sky_magnitude=17.6,
        read_noise=5.0,
        telluric_corrected=True,
        telluric_error=0.05,
        weather=0.25,
        slope=0.5,
        cosmic_rays=4.0,
        counts=True,
        unit=1.6,
    ),
    "apogee": Instrument(
        name="apogee",
        arms=(
            Arm(
                name="h",
                start=4.179,
                step=6e-6,
                n_pixel=8575,
                resolving=(
                    (15100, 23500),
                    (15800, 22500),
                    (16000, 24000),
                    (16450, 21500),
                    (17000, 22500),
                ),
                efficiency=(
                    (15100, 0.09),
                    (15500, 0.13),
                    (16200, 0.13),
                    (16700, 0.10),
                    (17000, 0.08),
                ),
                chips=((202, 3322), (3538, 6128), (6295, 8380)),
                joins=(15845.0, 16450.0),
            ),
        ),
        area=4.0e4,
        exposure=4000.0,
        sky_magnitude=17.5,
        read_noise=22.0,
        telluric_corrected=True,
        telluric_error=0.03,
        slope=0.2,
        weather=0.15,
        sky_residual=0.03,
        cosmic_rays=6.0,
        dead=0.004,
        flag_sky=4.0,
        unit=1.0,
    ),
    "desi": Instrument(
        name="desi",
        arms=(
            Arm(
                name="B",
                start=3600.0,
                step=0.8,
                n_pixel=2751,
                log=False,
                resolving=((3600, 2000), (4700, 2600), (5930, 3400)),
                efficiency=((3590, 0.04), (4000, 0.10), (4700, 0.17), (5500, 0.17), (5810, 0.13)),
            ),
            Arm(
                name="R",
                start=5760.0,
                step=0.8,
                n_pixel=2326,
                log=False,
                resolving=((5600, 3200), (6700, 3900), (7720, 4300)),
                efficiency=((5750, 0.14), (6400, 0.25), (7200, 0.27), (7630, 0.20)),
            ),
            Arm(
                name="Z",
                start=7520.0,
                step=0.8,
                n_pixel=2881,
                log=False,
                resolving=((7470, 4000), (8600, 4600), (9824, 5000)),
                efficiency=((7510, 0.18), (8500, 0.27), (9300, 0.24), (9830, 0.11)),
            ),
        ),
        area=1.0e5,
        exposure=500.0,
        sky_magnitude=20.7,
        read_noise=7.0,
        telluric_corrected=True,
        telluric_error=0.03,
        slope=0.15,
        level_step=0.01,
        weather=0.12,
        cosmic_rays=3.0,
        dead=0.002,
        unit=1.0,
    ),
    "gaia_xp": Instrument(
        name="gaia_xp",
        arms=(
            Arm(
                name="xp",
                start=3360.0,
                step=20.0,
                n_pixel=343,
                log=False,
                resolving=(
                    *((3300, 95), (4000, 65), (5000, 42), (6000, 30), (6350, 27), (6450, 90)),
                    *((8000, 75), (10300, 65)),
                ),
                efficiency=(
                    *((3350, 0.006), (3700, 0.010), (4100, 0.035), (5000, 0.06), (6200, 0.08)),
                    *((7200, 0.085), (8500, 0.07), (9500, 0.035), (10250, 0.008)),
                ),
                joins=(6400.0,),
            ),
        ),
        area=7250.0,
        exposure=150.0,
        sky_magnitude=20.5,
        read_noise=12.0,
        ground=False,
        fibre_droop=0.0,
        weather=0.05,
        slope=0.03,
        level_step=0.003,
        flat_error=0.005,
        cosmic_rays=0.0,
        dead=0.0,
        noise_sigma=1.15,
        unit=1.0,
    ),
    "csst": Instrument(
        name="csst",
        arms=tuple(
            Arm(
                name=name,
                start=float(np.log10(first)),
                step=1 / (2 * 200 * np.log(10)),
                n_pixel=int(np.log(last / first) * 400) + 1,
                resolving=((first, low), (last, high)),
                efficiency=efficiency,
            )
            for name, first, last, low, high, efficiency in (
                ("GU", 2550.0, 4100.0, 200.0, 260.0, ((2540, 0.03), (3200, 0.09), (4110, 0.11))),
                ("GV", 4000.0, 6200.0, 200.0, 280.0, ((3990, 0.12), (5000, 0.19), (6210, 0.17))),
                ("GI", 6200.0, 10000.0, 200.0, 270.0, ((6190, 0.18), (8000, 0.23), (10010, 0.09))),
            )
        ),
        area=3.1e4,
        exposure=600.0,
        sky_magnitude=19.5,  # slitless: the whole field's sky falls on every pixel
        read_noise=10.0,
        ground=False,
        fibre_droop=0.08,
        weather=0.03,
        slope=0.15,
        level_step=0.01,
        cosmic_rays=0.5,
        dead=0.004,
        contaminated=0.15,
        unit=1.0,
    ),
}
"""By survey; LAMOST's low resolution by release too."""

LAMOST_IVAR_FACTOR, LAMOST_NOISE_SIGMA = 0.55, 0.55
"""What LAMOST's own ivar is of the true one, and how its noise is smoothed: as measured on real
files where noise outweighs lines; for mocks that are to err as the survey does."""
