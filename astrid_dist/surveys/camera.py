"""What a detector and its telescope are, for artifacts and noise."""

from pydantic import BaseModel, ConfigDict, Field


class Camera(BaseModel):
    """What artifacts and noise depend on; generic numbers unless a profile says its own.

    Gain and read noise are the profile's where they are not said here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pixel_um: float = Field(default=15.0, gt=0, description="side of a pixel on the detector, micrometres")
    thickness_um: float = Field(default=100.0, gt=0, description="depth of the silicon, micrometres")
    gain: float = Field(default=2.0, gt=0, description="electron per DN")
    read_noise: float = Field(default=7.0, ge=0, description="electron, rms")
    full_well: float = Field(default=120000.0, gt=0, description="electron")
    dark_current: float = Field(default=0.01, ge=0, description="electron per second and pixel")
    aperture_m: float = Field(default=1.5, gt=0, description="of the telescope: near trails are out of focus")
    amplifiers: tuple[int, int] = Field(default=(2, 1), description="along x and y of a detector")
    detector_px: tuple[int, int] = Field(default=(2048, 2048), description="columns, rows of a detector")
    cosmic_rays: float = Field(default=3.0, ge=0, description="per cm2 and minute")
    exptime_s: float = Field(default=60.0, gt=0, description="of a usual exposure")
