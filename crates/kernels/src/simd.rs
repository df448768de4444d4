//! The widest vectors that the processor has, chosen at run time, and an exponential that fills them.

use std::sync::OnceLock;

/// Compiles a function once for AVX-512, once for AVX2 and once for any processor; the caller gets the widest.
macro_rules! simd_dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[expect(clippy::allow_attributes, reason = "the wide versions exist on x86-64 only")]
        #[allow(unsafe_code, unreachable_code, clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn any($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { any($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { any($($arg),*) }
                match crate::simd::vector_set() {
                    // SAFETY: the processor has what `vector_set` names.
                    crate::simd::VectorSet::Avx512 | crate::simd::VectorSet::Avx512Bf16 => return unsafe { avx512($($arg),*) },
                    crate::simd::VectorSet::Avx2 => return unsafe { avx2($($arg),*) },
                    crate::simd::VectorSet::Baseline => {}
                }
            }
            any($($arg),*)
        }
    };
}
pub(crate) use simd_dispatch;

/// The vector instructions that the kernels are compiled for, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VectorSet {
    /// What every processor of the architecture has: SSE2 on x86-64, NEON with fused multiply-add on aarch64.
    Baseline,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX-512 with products of bf16.
    Avx512Bf16,
}

impl VectorSet {
    /// All of them, and what each is called in `DUEL_VECTORS`.
    pub const NAMES: [(&str, Self); 4] = [
        ("baseline", Self::Baseline),
        ("avx2", Self::Avx2),
        ("avx512", Self::Avx512),
        ("avx512bf16", Self::Avx512Bf16),
    ];

    /// The set of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(other, _)| *other == name).map(|(_, set)| *set)
    }

    /// Whether a multiplication and an addition are one instruction.
    pub fn is_fused(self) -> bool {
        self >= Self::Avx2 || cfg!(target_arch = "aarch64")
    }

    /// What the instructions are called.
    pub fn label(self) -> &'static str {
        match self {
            Self::Baseline if cfg!(target_arch = "aarch64") => "NEON",
            Self::Baseline => "none",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Bf16 => "AVX-512 with BF16",
        }
    }

    /// The widest that this processor has.
    fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let has_512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
                return Self::Baseline;
            }
            match (has_512, is_x86_feature_detected!("avx512bf16")) {
                (true, true) => Self::Avx512Bf16,
                (true, false) => Self::Avx512,
                (false, _) => Self::Avx2,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::Baseline
    }
}

/// The environment variable that limits the vectors to narrower ones than the processor has: what it names is the widest.
pub const VECTORS_VARIABLE: &str = "DUEL_VECTORS";

/// The widest vectors that the kernels use in this process: those of the processor, or fewer where
/// [`VECTORS_VARIABLE`] names them. Another word there limits nothing; whoever starts the process refuses it.
pub fn vector_set() -> VectorSet {
    static SET: OnceLock<VectorSet> = OnceLock::new();
    *SET.get_or_init(|| {
        let limit = std::env::var(VECTORS_VARIABLE).ok().and_then(|name| VectorSet::named(&name));
        VectorSet::widest().min(limit.unwrap_or(VectorSet::Avx512Bf16))
    })
}

/// Whether `vdpbf16ps` multiplies faster than f32 does. On AMD it does twice the work of a fused multiply-add; Intel's cores start one every
/// other cycle, half of what two of f32 do in that time (Emerald Rapids, one thread: 87 and 151 GFLOP/s), and leave bf16 to AMX.
#[cfg(target_arch = "x86_64")]
pub fn has_fast_bf16_products() -> bool {
    static IS_INTEL: OnceLock<bool> = OnceLock::new();
    let is_intel = || {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    };
    vector_set() == VectorSet::Avx512Bf16 && !*IS_INTEL.get_or_init(is_intel)
}

/// `eˣ` to a relative error below 2e-7 for x in [−87, 88]; 0 below, the value at 88 above: nothing here is denormal,
/// which would slow every product that it enters. Cody & Waite's reduction, then Cephes' polynomial of degree 5; without a branch, so that a loop of it becomes vectors.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it leaves the nearest integer in the last bits
    let tiny = x < -87.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_6e-1);
    let p = p.mul_add(r, 5e-1);
    let p = (p * r).mul_add(r, r) + 1.0;
    let y = p * f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if tiny { 0.0 } else { y }
}

/// `eˣ` to a relative error below 1e-15 for x in [−700, 700]; 0 below, the value at 700 above. Cody & Waite's reduction, then
/// Taylor's polynomial of degree 13; without a branch, so that a loop of it becomes vectors.
#[inline(always)]
pub fn exp_f64(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5·2⁵²: adding it leaves the nearest integer in the last bits
    const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10]; // the first with zeros as its last bits
    /// 1/13!, 1/12!, … 1/2!
    const COEFFICIENTS: [f64; 12] = [
        1.605_904_383_682_161_3e-10,
        2.087_675_698_786_81e-9,
        2.505_210_838_544_172e-8,
        2.755_731_922_398_589e-7,
        2.755_731_922_398_589_3e-6,
        2.480_158_730_158_73e-5,
        1.984_126_984_126_984e-4,
        1.388_888_888_888_889e-3,
        8.333_333_333_333_333e-3,
        4.166_666_666_666_666_4e-2,
        1.666_666_666_666_666_6e-1,
        5e-1,
    ];
    let tiny = x < -700.0;
    let x = x.clamp(-700.0, 700.0);
    let shifted = x.mul_add(std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
    let p = COEFFICIENTS.into_iter().fold(0.0, |p: f64, coefficient| p.mul_add(r, coefficient));
    let p = (p * r).mul_add(r, r) + 1.0;
    let y = p * f64::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52);
    if tiny { 0.0 } else { y }
}

/// `tanh(x)` to an absolute error of 1e-7, and to a relative one near 0: Cephes' polynomial there, without a branch.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_7e-3f32;
    let p = p.mul_add(z, 2.063_908_8e-2);
    let p = p.mul_add(z, -5.373_971_5e-2);
    let p = p.mul_add(z, 1.333_144_2e-1);
    let p = p.mul_add(z, -0.333_332_8);
    let near = (p * z).mul_add(x, x);
    let far = 1.0 - 2.0 / (1.0 + exp(2.0 * x));
    if x.abs() < 0.625 { near } else { far }
}

/// Lanes that sums run in, whatever the processor's width: the order of a sum is part of its value.
pub const LANES: usize = 16;

/// The sum of all lanes, by halves: a chain of sixteen additions would take four times as long.
#[inline(always)]
pub fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The largest of all lanes, by halves.
#[inline(always)]
pub fn largest(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
        half /= 2;
    }
    lanes[0]
}

/// `Σ f(x)` over a row.
#[inline(always)]
pub fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
    total(lanes)
}

/// The largest of a row; −∞ of an empty one.
#[inline(always)]
pub fn max_of(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = if *x > *lane { *x } else { *lane };
    }
    largest(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_2e_7() {
        let mut worst = 0f64;
        for i in 0..400_000 {
            let x = -87.0 + i as f32 * (175.0 / 400_000.0);
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(-1e30), exp(f32::NEG_INFINITY), exp(1e30)), (0.0, 0.0, exp(88.0)));
    }

    #[test]
    fn the_exponential_in_f64_is_exact_to_1e_15() {
        let mut worst = 0f64;
        for i in 0..400_000 {
            let x = -700.0 + f64::from(i) * (1400.0 / 400_000.0);
            worst = worst.max((exp_f64(x) - x.exp()).abs() / x.exp());
        }
        assert!(worst < 1e-15, "{worst:e}");
        assert_eq!(exp_f64(0.0), 1.0);
        assert_eq!((exp_f64(-1e300), exp_f64(f64::NEG_INFINITY), exp_f64(1e300)), (0.0, 0.0, exp_f64(700.0)));
    }

    #[test]
    fn the_hyperbolic_tangent_is_exact_to_2e_7() {
        for i in -40_000..=40_000 {
            let x = i as f32 * 5e-4;
            let exact = f64::from(x).tanh();
            let near = if exact.abs() < 0.5 { exact.abs() } else { 1.0 };
            assert!((f64::from(tanh(x)) - exact).abs() <= 2e-7 * near, "{x}");
        }
        assert_eq!((tanh(0.0), tanh(1e30), tanh(-1e30)), (0.0, 1.0, -1.0));
    }

    #[test]
    fn sums_of_any_length() {
        for n in [0, 1, 15, 16, 17, 40] {
            let row: Vec<f32> = (0..n).map(|i| i as f32 - 3.0).collect();
            assert_eq!(sum_of(&row, |x| x), row.iter().sum::<f32>());
            assert_eq!(max_of(&row), row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
