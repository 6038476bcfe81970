"""Draw the figure: 800,000 years of three records, and their rhythms."""

import sys

import matplotlib as mpl
import numpy as np

sys.stderr = open(snakemake.log[0], "w")
mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 - only after the backend is chosen
from matplotlib.ticker import FixedLocator, NullLocator  # noqa: E402

# Okabe and Ito: distinct for colour-blind readers too.
COLOUR = {"temperature": "#D55E00", "co2": "#007A5A", "ice": "#0072B2"}
AXIS = {
    "temperature": "Antarctic\ntemperature (°C)",
    "co2": "Carbon dioxide\n(ppm)",
    "ice": "Deep-sea δ¹⁸O (‰)\n← more ice",
}
# The rhythms of the Earth's orbit, in kyr.
ORBIT = {23: "precession", 41: "tilt of the axis", 100: "eccentricity"}
GREY = "#595959"

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.labelsize": 9,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

records = snakemake.params.records
span = snakemake.params.span
series = {
    name: np.loadtxt(path, delimiter="\t")
    for name, path in zip(records, snakemake.input.records, strict=True)
}

figure = plt.figure(figsize=(11, 9.2))
upper = figure.add_gridspec(3, 1, left=0.085, right=0.975, top=0.880, bottom=0.490, hspace=0.08)
lower = figure.add_gridspec(
    1, 2, left=0.085, right=0.975, top=0.390, bottom=0.100, wspace=0.06, width_ratios=[1.75, 1]
)

# ---- the records, today at the right ---------------------------------------------------

panels = upper.subplots(sharex=True)
for axes, (name, record), path in zip(panels, series.items(), snakemake.input.means, strict=True):
    past = record[(record[:, 0] <= span + 5) & (record[:, 0] >= 0)]
    for number, (end, start) in snakemake.params.interglacials.items():
        axes.axvspan(start, end, color="#F1E3B0", lw=0, zorder=0)
        if axes is panels[0]:
            axes.text(
                (start + end) / 2, 1.02, f"{number}", transform=axes.get_xaxis_transform(),
                ha="center", va="bottom", color=GREY, size=8.5,
            )  # fmt: skip
    # Every sample faintly, and over it the means of 1 kyr that the spectra are made from.
    axes.plot(*past.T, color=COLOUR[name], lw=0.5, alpha=0.35)
    axes.plot(*np.loadtxt(path, delimiter="\t").T, color=COLOUR[name], lw=1.2)
    axes.set_ylabel(AXIS[name], color=COLOUR[name], size=8.5)
    axes.tick_params(axis="y", colors=COLOUR[name])
    axes.margins(y=0.08)
    if axes is not panels[-1]:
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)
    axes.yaxis.set_label_coords(-0.045, 0.5)
panels[2].invert_yaxis()
panels[0].set_xlim(span, -12)
panels[2].set_xlabel("Thousand years before 1950")

# The industrial rise is vertical on this scale: the composite's own latest value.
age, latest = series["co2"][0]
panels[1].plot(
    *series["co2"][series["co2"][:, 0] < 0.3].T, color=COLOUR["co2"], lw=1.4, clip_on=False
)
panels[1].annotate(
    f"{latest:.0f} ppm in {1950 - 1000 * age:.0f}",
    (age, latest), xytext=(-9, -3), textcoords="offset points", ha="right", va="center",
    color=COLOUR["co2"], weight="bold",
)  # fmt: skip

figure.text(0.085, 0.962, "The pulse of the ice ages", size=17, weight="bold")
figure.text(
    0.085, 0.934,
    "Antarctic ice and deep-sea shells tell one story: a slow freeze and a fast thaw, "
    "roughly every 100,000 years",
    color=GREY, size=10.5,
)  # fmt: skip
panels[0].set_title("a   Eight ice ages; shaded: interglacials (marine isotope stage)", pad=16)

# ---- amplitude of every rhythm through five million years -------------------------------

centre, spectra = [], []
for path in snakemake.input.windows:
    start, end = path.rsplit("/", 1)[1].removesuffix(".tsv").split("-")
    centre.append((int(start) + int(end)) / 2000)
    period, amplitude = np.loadtxt(path, delimiter="\t", unpack=True)
    spectra.append(amplitude)
order = np.argsort(centre)
centre = np.array(centre)[order]
spectra = np.array(spectra)[order]

evolution = figure.add_subplot(lower[0])
image = evolution.pcolormesh(
    centre, period, spectra.T, vmin=0, cmap="magma", shading="gouraud", rasterized=True
)
evolution.set_yscale("log")
evolution.set_xlim(centre[-1], centre[0])
evolution.set_xlabel("Centre of a 500,000-year window (million years before 1950)")
evolution.set_ylabel("Period (thousand years)")
evolution.set_title("b   Deep-sea δ¹⁸O: from the beat of 41,000 years to 100,000")
for beat, cause in ORBIT.items():
    evolution.axhline(beat, color="white", lw=0.7, ls=(0, (5, 4)), alpha=0.8)
    evolution.text(
        centre[-1] - 0.06, beat * 1.04, f"{beat} kyr · {cause}", color="white", size=8.5,
        va="bottom",
    )  # fmt: skip
bar = figure.colorbar(
    image, cax=evolution.inset_axes([0.03, 0.925, 0.26, 0.03]), orientation="horizontal",
    ticks=[0, 0.1, 0.2, 0.3, 0.4],
)  # fmt: skip
bar.outline.set_edgecolor("white")
bar.ax.tick_params(colors="white", labelsize=8, length=2)
bar.ax.text(
    1.06, 0.5, "amplitude (‰)", transform=bar.ax.transAxes, color="white", size=8.5, va="center"
)

# ---- are they more than red noise? ------------------------------------------------------

strength = figure.add_subplot(lower[1], sharey=evolution)
for name, spectrum, threshold in zip(
    records, snakemake.input.spectra, snakemake.input.thresholds, strict=True
):
    period, amplitude = np.loadtxt(spectrum, delimiter="\t", unpack=True)
    noise = np.loadtxt(threshold)
    strength.plot(amplitude, period, color=COLOUR[name], lw=1.3, label=records[name]["label"])
    strength.plot(noise, period, color=COLOUR[name], lw=0.8, ls=":")
    strength.fill_betweenx(
        period, noise, amplitude, where=amplitude > noise, color=COLOUR[name], alpha=0.25, lw=0
    )
for beat in ORBIT:
    strength.axhline(beat, color=GREY, lw=0.6, ls=(0, (5, 4)), zorder=0)
strength.plot([], [], color=GREY, lw=0.8, ls=":", label="99 % of red noise")
strength.legend(
    loc="lower right", fontsize=8.5, handlelength=1.6, edgecolor="none", framealpha=1, borderpad=0.2
)
strength.set_xlim(0, None)
strength.set_xlabel("Amplitude (standard deviations)")
strength.set_title("c   The last 800,000 years")
strength.tick_params(labelleft=False)
evolution.yaxis.set_major_locator(FixedLocator([15, 23, 41, 60, 100, 200]))
evolution.yaxis.set_major_formatter("{x:.0f}")
evolution.yaxis.set_minor_locator(NullLocator())
evolution.set_ylim(period[0], period[-1])

figure.text(
    0.085, 0.012,
    "Data: EPICA Dome C temperature (doi:10.1126/science.1141038), Antarctic CO₂ composite "
    "(doi:10.1002/2014GL061957), LR04 benthic stack (doi:10.1029/2004PA001071).\n"
    "Dotted: exceeded by 1 % of AR(1) series with the record's own persistence and sample times. "
    "The ages of LR04 are tuned to the orbit, those of the ice cores in part.",
    color=GREY, size=7.8, linespacing=1.5,
)  # fmt: skip
figure.savefig(snakemake.output[0], dpi=110)
