//! From a photograph to the model's input: upright, its middle, 224 × 224 pixels.

use std::io::Cursor;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage,
};
use thiserror::Error;

/// Pixels on each side of the model's input.
pub(crate) const SIDE: u32 = 224;

/// How much of the photograph's shorter side the model sees: 224 of 256 pixels, as it was evaluated.
const SEEN: f64 = 224.0 / 256.0;

/// The longest side that is decoded.
const MAX_SIDE: u32 = 8192;

/// The most memory for pixels in RGB, or RGBA where they are transparent: 24 megapixels, and as much again for turning them upright,
/// fit.
const MAX_PIXEL_BYTES: u64 = 80 << 20;

/// Why a photograph can't be read.
#[derive(Debug, Error)]
pub(crate) enum PhotoError {
    #[error("the body is neither a PNG nor a JPEG image")]
    Format,
    #[error("the image can't be decoded, or is larger than {MAX_SIDE} pixels on a side or {} MiB in memory", MAX_PIXEL_BYTES >> 20)]
    Decode(#[source] ImageError),
    #[error("the image can't be scaled")]
    Scale(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the JPEG image ends before its last pixel: the file was cut off")]
    Truncated,
}

/// f32[3, 224, 224] in RGB, (pixel − 127) / 128, from a PNG or JPEG.
///
/// # Errors
/// When the bytes are no such image.
pub(crate) fn to_input(bytes: &[u8]) -> Result<Vec<f32>, PhotoError> {
    let photo = on_white(decode(bytes)?);
    let square = middle(&photo)?;
    let channel = |index: usize| {
        let pixels = square.pixels().iter();
        pixels.filter_map(move |pixel| pixel.0.get(index).copied())
    };
    Ok((0..3)
        .flat_map(channel)
        .map(|value| (f32::from(value) - 127.0) / 128.0)
        .collect())
}

/// The middle that the model sees, as RGB, with bicubic filtering.
fn middle(photo: &RgbImage) -> Result<TypedImage<'static, U8x3>, PhotoError> {
    let (width, height) = photo.dimensions();
    let seen = f64::from(width.min(height)) * SEEN;
    let before = |side: u32| (f64::from(side) - seen) / 2.0;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .crop(before(width), before(height), seen, seen);
    let whole = TypedImageRef::<U8x3>::from_buffer(width, height, photo).map_err(scaling)?;
    let mut square = TypedImage::new(SIDE, SIDE);
    Resizer::new()
        .resize_typed(&whole, &mut square, &options)
        .map_err(scaling)?;
    Ok(square)
}

fn scaling(error: impl std::error::Error + Send + Sync + 'static) -> PhotoError {
    PhotoError::Scale(error.into())
}

fn decode(bytes: &[u8]) -> Result<DynamicImage, PhotoError> {
    let refuse = |error| match error {
        ImageError::Unsupported(_) => PhotoError::Format,
        error => PhotoError::Decode(error),
    };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|_| PhotoError::Format)?;
    // The decoder would fill what is missing with grey.
    if reader.format() == Some(ImageFormat::Jpeg) && !is_whole_jpeg(bytes) {
        return Err(PhotoError::Truncated);
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_PIXEL_BYTES);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(refuse)?;
    // A camera held sideways writes that into the file's EXIF data, and not into the pixels.
    let orientation = decoder.orientation().map_err(refuse)?;
    // `from_decoder` makes room for the pixels without asking how much there may be.
    let (width, height) = decoder.dimensions();
    let channels = if decoder.color_type().has_alpha() {
        4
    } else {
        3
    };
    // What has fewer becomes that.
    let becomes = u64::from(width) * u64::from(height) * channels;
    let needed = decoder.total_bytes().max(becomes);
    limits.reserve(needed).map_err(refuse)?;
    let mut photo = DynamicImage::from_decoder(decoder).map_err(refuse)?;
    photo.apply_orientation(orientation);
    Ok(photo)
}

/// Whether the segments and scans of a JPEG lead to its end-of-image marker (ITU T.81, B.1.1).
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        // Scans hold 0xFF only before 0 or a restart marker. These, like the start of the image, have no length.
        let marker = rest.windows(2).position(|pair| {
            matches!(pair, [0xFF, kind] if !matches!(kind, 0x00 | 0x01 | 0xD0..=0xD8 | 0xFF))
        });
        let segment = marker.and_then(|at| rest.get(at + 1..));
        rest = match segment {
            Some([0xD9, ..]) => return true,
            Some([_, length @ ..]) => {
                let Some(count) = length.first_chunk().copied().map(u16::from_be_bytes) else {
                    return false;
                };
                length.get(usize::from(count)..).unwrap_or_default()
            }
            _ => return false,
        };
    }
}

/// What is transparent shows white paper, as in a browser.
fn on_white(photo: DynamicImage) -> RgbImage {
    if !photo.color().has_alpha() {
        return photo.into_rgb8();
    }
    let rgba = photo.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0.map(u16::from);
        let blend = |value: u16| (value * alpha + 255 * (255 - alpha) + 127) / 255;
        Rgb([r, g, b].map(|value| u8::try_from(blend(value)).unwrap_or(u8::MAX)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        picture
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        bytes
    }

    #[test]
    fn is_planar_rgb_centred_on_127() {
        let picture = RgbImage::from_pixel(300, 500, Rgb([255, 127, 0]));
        let input = to_input(&png(&picture.into())).unwrap();
        let plane = (SIDE * SIDE) as usize;
        assert_eq!(input.len(), 3 * plane);
        assert_eq!(
            (input[0], input[plane], input[2 * plane]),
            (1.0, 0.0, -127.0 / 128.0)
        );
    }

    #[test]
    fn takes_the_middle() {
        let picture = image::RgbImage::from_fn(600, 200, |x, _| {
            if (200..400).contains(&x) {
                image::Rgb([255; 3])
            } else {
                image::Rgb([0; 3])
            }
        });
        assert!(
            to_input(&png(&picture.into()))
                .unwrap()
                .iter()
                .all(|value| *value == 1.0)
        );
    }

    #[test]
    fn no_shape_is_too_odd() {
        for (width, height) in [(1, 1), (1, 8192), (8192, 1), (3, 7)] {
            let picture = RgbImage::from_pixel(width, height, Rgb([127; 3]));
            let input = to_input(&png(&picture.into())).unwrap();
            assert!(
                input.len() == 3 * 224 * 224 && input.iter().all(|value| *value == 0.0),
                "{width} × {height}"
            );
        }
    }

    #[test]
    fn what_is_transparent_is_white() {
        for (alpha, expected) in [(0, 1.0), (255, -127.0 / 128.0), (128, 0.0)] {
            let picture = image::RgbaImage::from_pixel(300, 300, image::Rgba([0, 0, 0, alpha]));
            let input = to_input(&png(&picture.into())).unwrap();
            assert!(
                input.iter().all(|value| *value == expected),
                "alpha {alpha}: {}",
                input[0]
            );
        }
    }

    #[test]
    fn a_jpeg_that_was_cut_off_is_refused_wherever_that_was() {
        let whole = include_bytes!("../china.jpg");
        assert!(to_input(whole).is_ok());
        assert!(to_input(&[whole, &b"what a camera appends"[..]].concat()).is_ok());
        for kept in [10, whole.len() / 2, whole.len() - 1000, whole.len() - 1] {
            assert!(
                matches!(to_input(&whole[..kept]), Err(PhotoError::Truncated)),
                "{kept} bytes"
            );
        }
    }

    #[test]
    fn says_why_it_can_not_read() {
        assert!(matches!(to_input(b"no image"), Err(PhotoError::Format)));
        assert!(matches!(
            to_input(&include_bytes!("../chelsea.png")[..5000]),
            Err(PhotoError::Decode(_))
        ));
        let wide = png(&DynamicImage::new_rgb8(MAX_SIDE + 1, 1));
        assert!(matches!(to_input(&wide), Err(PhotoError::Decode(_))));
        // Would fail if pixels were decoded that the function has no memory for: it would trap, and answer 502.
        for large in [
            DynamicImage::new_rgb8(MAX_SIDE, 3500),
            DynamicImage::new_luma8(MAX_SIDE, 3500),
            DynamicImage::new_luma_a8(MAX_SIDE, 2700),
        ] {
            assert!(matches!(
                to_input(&png(&large)),
                Err(PhotoError::Decode(ImageError::Limits(_)))
            ));
        }
    }
}
