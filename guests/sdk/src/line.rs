//! The line of least squares through points, and how sure its slope is.

/// How a line rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rise {
    /// For each `per` of x; negative if it falls.
    pub rise: i64,
    /// The standard error of that, rounded up: how much of it the scatter about the line may be.
    pub error: i64,
}

/// The rise of the line of least squares through `points`, for each `per` of x.
///
/// None below three points, if all have one x, or if their sums leave 128 bits: a million of x and 10^9 of y are far
/// from that.
#[must_use]
pub fn rise(points: &[(i64, i64)], per: i64) -> Option<Rise> {
    let n = i128::try_from(points.len()).ok().filter(|&n| n > 2)?;
    let &(first_x, first_y) = points.first()?;
    let (mut sx, mut sy, mut sxx, mut sxy, mut syy) = (0_i128, 0_i128, 0_i128, 0_i128, 0_i128);
    for &(x, y) in points {
        let (x, y) = (i128::from(x) - i128::from(first_x), i128::from(y) - i128::from(first_y));
        sx = sx.checked_add(x)?;
        sy = sy.checked_add(y)?;
        sxx = sxx.checked_add(x.checked_mul(x)?)?;
        sxy = sxy.checked_add(x.checked_mul(y)?)?;
        syy = syy.checked_add(y.checked_mul(y)?)?;
    }
    // n squared times the (co)variances.
    let about = |product: i128, a: i128, b: i128| n.checked_mul(product)?.checked_sub(a.checked_mul(b)?);
    let (xx, xy, yy) = (about(sxx, sx, sx)?, about(sxy, sx, sy)?, about(syy, sy, sy)?);
    if xx == 0 {
        return None;
    }
    let per = i128::from(per);
    let rise = xy.checked_mul(per)?.checked_div(xx)?;
    // The variance of the slope is (yy / xx - (xy / xx)^2) / (n - 2).
    let scatter = xx.checked_mul(yy)?.checked_sub(xy.checked_mul(xy)?)?.max(0);
    let root = (scatter / (n - 2)).isqrt().checked_add(1)?;
    let error = root.checked_mul(per)?.checked_div(xx)?.checked_add(1)?;
    Some(Rise { rise: i64::try_from(rise).ok()?, error: i64::try_from(error).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_is_sure() {
        let points: Vec<_> = (0..10).map(|x| (1_000 + 60 * x, 5 + 120 * x)).collect();
        assert_eq!(rise(&points, 3_600), Some(Rise { rise: 7_200, error: 1 }));
        let falling: Vec<_> = points.iter().map(|&(x, y)| (x, -y)).collect();
        assert_eq!(rise(&falling, 3_600).map(|r| r.rise), Some(-7_200));
    }

    #[test]
    fn scatter_makes_it_unsure() {
        // Worked by hand: x 0 to 3, y 0, 2, 1, 3 has the slope 0.8 and the error sqrt(0.9 / 5) = 0.4243.
        let found = rise(&[(0, 0), (1_000, 2_000), (2_000, 1_000), (3_000, 3_000)], 1_000).unwrap();
        assert_eq!(found, Rise { rise: 800, error: 425 });
    }

    #[test]
    fn what_has_no_slope_has_none() {
        assert_eq!(rise(&[], 1), None);
        assert_eq!(rise(&[(0, 0), (1, 1)], 1), None);
        assert_eq!(rise(&[(5, 0), (5, 1), (5, 2)], 1), None);
        assert_eq!(rise(&[(i64::MIN, i64::MIN), (0, 0), (i64::MAX, i64::MAX)], i64::MAX), None);
    }
}
