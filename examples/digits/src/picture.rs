//! From any picture of one digit to what MNIST's pictures look like, <http://yann.lecun.com/exdb/mnist/>: light ink on
//! black, the digit within 20 × 20 pixels, its centre of mass in the middle of 28 × 28.

use std::io::Cursor;

use image::imageops::{FilterType, resize};
use image::{
    DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageReader, Limits, Luma, RgbaImage,
};
use thiserror::Error;

/// Pixels on each side of the model's input.
pub(crate) const SIDE: u32 = 28;

/// The longer side of the digit within that.
const DIGIT: f32 = 20.0;

/// The longest side that is decoded.
const MAX_SIDE: u32 = 2048;

/// Contrast between ink and background below which there is nothing to read.
const MIN_CONTRAST: f32 = 0.1;

type Grey = ImageBuffer<Luma<f32>, Vec<f32>>;

/// Why a picture can't be read.
#[derive(Debug, Error)]
pub(crate) enum PictureError {
    #[error("the body is neither a PNG nor a JPEG image")]
    Format,
    #[error("the image can't be decoded, or is larger than {MAX_SIDE} × {MAX_SIDE} pixels")]
    Decode(#[source] ImageError),
    #[error("the image shows no ink: its contrast is {0:.2} of at least {MIN_CONTRAST} (0 to 1)")]
    Blank(f32),
}

/// 28 × 28 values from 0 (background) to 1 (ink), row by row, from a PNG or JPEG.
///
/// # Errors
/// When the bytes are no such image, or the image shows nothing.
pub(crate) fn to_input(bytes: &[u8]) -> Result<Vec<f32>, PictureError> {
    let grey = grey(decode(bytes)?);
    let paper = border_mean(&grey);
    if grey.dimensions() == (SIDE, SIDE) && paper < 0.5 {
        check_contrast(&grey)?;
        return Ok(grey.into_raw());
    }
    let ink = ink(&grey, paper)?;
    Ok(centred(&resize_to_digit(&ink)))
}

/// Refuses pixels that are all alike: a model would read a digit there too.
///
/// # Errors
/// When the brightest differs from the darkest by less than `MIN_CONTRAST`.
pub(crate) fn check_contrast(pixels: &[f32]) -> Result<(), PictureError> {
    let (mut darkest, mut brightest) = (1.0_f32, 0.0_f32);
    // Rust's `min` and `max` are calls in Wasm, for the sake of NaN.
    for &value in pixels {
        darkest = if value < darkest { value } else { darkest };
        brightest = if value > brightest { value } else { brightest };
    }
    let contrast = (brightest - darkest).max(0.0);
    if contrast < MIN_CONTRAST {
        return Err(PictureError::Blank(contrast));
    }
    Ok(())
}

/// The picture upright, in 8 bits.
fn decode(bytes: &[u8]) -> Result<RgbaImage, PictureError> {
    let refuse = |error| match error {
        ImageError::Unsupported(_) => PictureError::Format,
        error => PictureError::Decode(error),
    };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|_| PictureError::Format)?;
    if reader.format().is_none() {
        return Err(PictureError::Format);
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(32 << 20);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(refuse)?;
    // A camera held sideways writes that into the file's EXIF data, and not into the pixels.
    let orientation = decoder.orientation().map_err(refuse)?;
    // `from_decoder` makes room for the pixels without asking how much there may be.
    limits.reserve(decoder.total_bytes()).map_err(refuse)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(refuse)?;
    // Turned only once it is small: 32 MiB in 16 bits, and turned beside that, are all the memory that the function has.
    let mut picture = DynamicImage::from(picture.into_rgba8());
    picture.apply_orientation(orientation);
    Ok(picture.into_rgba8())
}

/// Brightness from 0 to 1; what is transparent shows white paper.
fn grey(rgba: RgbaImage) -> Grey {
    let brightness = rgba.pixels().map(|pixel| {
        let [r, g, b, a] = pixel.0.map(|value| f32::from(value) / 255.0);
        (0.299 * r + 0.587 * g + 0.114 * b) * a + (1.0 - a)
    });
    Grey::from_vec(rgba.width(), rgba.height(), brightness.collect()).unwrap_or_default()
}

fn border_mean(grey: &Grey) -> f32 {
    let (right, bottom) = (grey.width() - 1, grey.height() - 1);
    let on_border =
        |(x, y, _): &(u32, u32, &Luma<f32>)| *x == 0 || *y == 0 || *x == right || *y == bottom;
    mean(
        grey.enumerate_pixels()
            .filter(on_border)
            .map(|(_, _, Luma([value]))| *value),
    )
}

fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / f32::max(count, 1.0)
}

/// How much each pixel differs from the paper, 0 to 1. A fifth of the strongest difference is shadow and noise.
fn ink(grey: &Grey, paper: f32) -> Result<Grey, PictureError> {
    let sign = if paper < 0.5 { 1.0 } else { -1.0 };
    let difference = |value: f32| (value - paper) * sign;
    let strongest = grey
        .iter()
        .map(|value| difference(*value))
        .fold(0.0, f32::max);
    if strongest < MIN_CONTRAST {
        return Err(PictureError::Blank(strongest));
    }
    let mut ink = grey.clone();
    for value in ink.iter_mut() {
        *value = ((difference(*value) / strongest - 0.2) / 0.6).clamp(0.0, 1.0);
    }
    Ok(ink)
}

/// What is inked, cut out and scaled to the size that digits have in MNIST.
fn resize_to_digit(ink: &Grey) -> Grey {
    let inked = || {
        ink.enumerate_pixels()
            .filter(|(_, _, Luma([value]))| *value > 0.0)
    };
    let (left, right) = span(inked().map(|(x, ..)| x));
    let (top, bottom) = span(inked().map(|(_, y, _)| y));
    let (width, height) = (right - left + 1, bottom - top + 1);
    let cut = image::imageops::crop_imm(ink, left, top, width, height).to_image();
    let scale = DIGIT / width.max(height) as f32;
    let scaled = |length: u32| ((length as f32 * scale).round() as u32).max(1);
    resize(&cut, scaled(width), scaled(height), FilterType::Triangle)
}

fn span(values: impl Iterator<Item = u32>) -> (u32, u32) {
    values.fold((u32::MAX, 0), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// The digit on its 28 × 28 pixels, centre of mass in the middle, moved no further than it fits.
fn centred(digit: &Grey) -> Vec<f32> {
    let total: f32 = digit.iter().sum();
    let weighted = |position: fn(u32, u32) -> u32| {
        let sum: f32 = digit
            .enumerate_pixels()
            .map(|(x, y, Luma([value]))| position(x, y) as f32 * value)
            .sum();
        sum / total.max(f32::EPSILON)
    };
    let offset = |centre: f32, length: u32| {
        ((SIDE / 2) as f32 - centre)
            .round()
            .clamp(0.0, (SIDE - length) as f32) as i64
    };
    let mut canvas = Grey::new(SIDE, SIDE);
    let (x, y) = (
        offset(weighted(|x, _| x), digit.width()),
        offset(weighted(|_, y| y), digit.height()),
    );
    image::imageops::replace(&mut canvas, digit, x, y);
    canvas.into_raw()
}

#[cfg(test)]
mod tests {
    use image::ImageEncoder as _;
    use image::codecs::png::PngEncoder;

    use super::*;

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = Vec::new();
        picture
            .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
            .unwrap();
        bytes
    }

    #[test]
    fn a_picture_in_mnists_own_form_is_taken_as_it_is() {
        let bytes = include_bytes!("../seven.png");
        let input = to_input(bytes).unwrap();
        let pixels = image::load_from_memory(bytes).unwrap().to_luma8();
        assert_eq!(input.len(), 784);
        for (value, pixel) in input.iter().zip(pixels.iter()) {
            assert!((value - f32::from(*pixel) / 255.0).abs() < 1e-5);
        }
    }

    #[test]
    fn dark_ink_on_paper_becomes_light_ink_in_the_middle() {
        let input = to_input(include_bytes!("../four-on-paper.jpg")).unwrap();
        let at = |i: usize| ((i % 28) as f32, (i / 28) as f32);
        let total: f32 = input.iter().sum();
        let centre = |axis: fn((f32, f32)) -> f32| {
            input
                .iter()
                .enumerate()
                .map(|(i, v)| axis(at(i)) * v)
                .sum::<f32>()
                / total
        };
        assert!((centre(|p| p.0) - 14.0).abs() < 1.0 && (centre(|p| p.1) - 14.0).abs() < 1.0);
        assert!(input.iter().copied().fold(0.0, f32::max) > 0.9);
        let paper = input.iter().filter(|v| **v == 0.0).count();
        assert!(
            paper > 500,
            "the paper's shading must go: only {paper} of 784 pixels are empty"
        );
    }

    /// Would fail if a photograph of a camera held sideways were read as it lies in the file.
    #[test]
    fn a_picture_is_turned_upright_as_its_exif_data_say() {
        let mut upright = image::GrayImage::from_pixel(60, 60, Luma([255]));
        for i in 10..50 {
            upright.put_pixel(i, 12, Luma([0]));
            upright.put_pixel(48, i, Luma([0]));
        }
        let upright = DynamicImage::from(upright);
        // TIFF with one entry: tag 0x112 (orientation), one short, 6: to be turned by a right angle, clockwise.
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut sideways = Vec::new();
        let mut encoder = PngEncoder::new(&mut sideways);
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        upright.rotate270().write_with_encoder(encoder).unwrap();
        assert_eq!(
            to_input(&sideways).unwrap(),
            to_input(&png(&upright)).unwrap()
        );
    }

    /// Would fail if the largest picture were refused, or a larger one were decoded.
    #[test]
    fn the_largest_picture_fits() {
        let mut large =
            image::ImageBuffer::from_pixel(MAX_SIDE, MAX_SIDE, image::Rgba([u16::MAX; 4]));
        for y in 500..1500 {
            large.put_pixel(1000, y, image::Rgba([0, 0, 0, u16::MAX]));
        }
        assert_eq!(
            to_input(&png(&DynamicImage::ImageRgba16(large)))
                .unwrap()
                .len(),
            784
        );
    }

    #[test]
    fn a_transparent_background_is_paper() {
        let mut picture = image::RgbaImage::new(60, 60);
        for y in 10..50 {
            picture.put_pixel(30, y, image::Rgba([0, 0, 0, 255]));
        }
        let input = to_input(&png(&picture.into())).unwrap();
        assert!(input.iter().sum::<f32>() > 5.0);
        assert_eq!(input[0], 0.0);
    }

    #[test]
    fn says_why_it_can_not_read() {
        assert!(matches!(
            to_input(b"not an image"),
            Err(PictureError::Format)
        ));
        assert!(matches!(
            to_input(b"GIF89a and more"),
            Err(PictureError::Format)
        ));
        assert!(matches!(
            to_input(&include_bytes!("../seven.png")[..100]),
            Err(PictureError::Decode(_))
        ));
        // 28 × 28 in black is the size that is taken as it is.
        for (side, shade) in [(100, 255), (100, 0), (SIDE, 255), (SIDE, 0)] {
            let blank = image::GrayImage::from_pixel(side, side, Luma([shade]));
            assert!(
                matches!(to_input(&png(&blank.into())), Err(PictureError::Blank(_))),
                "{side} pixels of {shade}"
            );
        }
        let wide = image::GrayImage::new(MAX_SIDE + 1, 1);
        assert!(matches!(
            to_input(&png(&wide.into())),
            Err(PictureError::Decode(_))
        ));
    }

    #[test]
    fn the_smallest_pictures_do_no_harm() {
        for (width, height) in [(1, 1), (1, 300), (300, 1), (2, 2)] {
            let mut picture = image::GrayImage::from_pixel(width, height, Luma([255]));
            picture.put_pixel(width / 2, height / 2, Luma([0]));
            match to_input(&png(&picture.into())) {
                Ok(input) => assert_eq!(input.len(), 784),
                Err(error) => assert!(matches!(error, PictureError::Blank(_))),
            }
        }
    }
}
