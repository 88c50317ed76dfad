use super::*;
use proptest::prelude::*;

fn any_partitioner() -> impl Strategy<Value = Partitioner> {
    let alpha = || (-3.0f64..6.0).prop_map(|exponent| 10f64.powf(exponent).clamp(0.001, 1e6));
    prop_oneof![
        Just(Partitioner::Iid),
        alpha().prop_map(|alpha| Partitioner::DirichletQuantity { alpha }),
        alpha().prop_map(|alpha| Partitioner::DirichletLabel { alpha }),
        (1u32..4).prop_map(|per_client| Partitioner::Shards { per_client }),
    ]
}

/// 10 classes in turn, as many images as asked for.
fn labels(images: usize) -> Vec<u8> {
    (0..images).map(|i| (i % 10) as u8).collect()
}

proptest! {
    #[test]
    fn every_image_is_in_exactly_one_part_and_no_part_is_empty(
        partitioner in any_partitioner(),
        labels in prop::collection::vec(0u8..10, 60..400),
        parts in 1usize..20,
        seed: u64,
    ) {
        let split = partitioner.partition(&labels, 10, parts, seed).unwrap();
        prop_assert_eq!(split.len(), parts);
        prop_assert!(split.iter().all(|part| !part.is_empty()));
        let mut all = split.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
    }

    #[test]
    fn the_same_seed_gives_the_same_split(partitioner in any_partitioner(), seed: u64) {
        let split = || partitioner.partition(&labels(100), 10, 7, seed).unwrap();
        prop_assert_eq!(split(), split());
    }

    #[test]
    fn iid_parts_differ_by_at_most_one_image(images in 20usize..500, parts in 1usize..20, seed: u64) {
        let split = Partitioner::Iid.partition(&labels(images), 10, parts, seed).unwrap();
        let sizes = split.iter().map(Vec::len);
        prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
    }

    #[test]
    fn a_partitioner_reads_back_as_it_is_written(partitioner in any_partitioner()) {
        prop_assert_eq!(partitioner.to_string().parse(), Ok(partitioner));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text: String) {
        let _ = text.parse::<Partitioner>();
        let _ = text.parse::<PartitionChoice>();
    }
}

#[test]
fn different_seeds_give_different_splits() {
    let split = |seed| Partitioner::Iid.partition(&labels(100), 10, 3, seed).unwrap();
    assert_ne!(split(1), split(2));
}

/// Agents of different builds must agree: if this fails after an upgrade of a random number crate, the split of existing
/// experiments has changed.
#[test]
fn the_split_of_a_seed_is_the_same_in_every_build() {
    let first_part = |partitioner: &str| {
        let partitioner: Partitioner = partitioner.parse().unwrap();
        partitioner.partition(&labels(12), 10, 3, 42).unwrap().swap_remove(0)
    };
    assert_eq!(first_part("iid"), [1, 4, 7, 11]);
    assert_eq!(first_part("dirichlet-quantity:1.0"), [1, 4, 6, 7, 9, 11]);
    assert_eq!(first_part("dirichlet-label:0.3"), [0, 1, 3, 4, 6, 7]);
    assert_eq!(first_part("shards:2"), [1, 2, 3, 11]);
}

/// Mean over seeds of the largest part's share.
fn mean_largest_share(partitioner: Partitioner) -> f64 {
    let labels = labels(1000);
    let largest = |seed| {
        let split = partitioner.partition(&labels, 10, 5, seed).unwrap();
        split.iter().map(Vec::len).max().unwrap() as f64 / 1000.0
    };
    (0..20).map(largest).sum::<f64>() / 20.0
}

#[test]
fn a_small_alpha_skews_sizes_more_than_a_large_one() {
    let [tiny, middle, large] =
        [0.01, 1.0, 1000.0].map(|alpha| mean_largest_share(Partitioner::DirichletQuantity { alpha }));
    assert!(tiny > 0.9, "{tiny}");
    assert!((0.3..0.7).contains(&middle), "{middle}");
    assert!((0.2..0.25).contains(&large), "{large}");
}

#[test]
fn a_small_alpha_leaves_each_class_to_few_clients() {
    // Mean over classes and seeds of the share that a class's main holder has.
    let concentration = |alpha| {
        let labels = labels(1000);
        let main_holders = |seed| {
            let split = Partitioner::DirichletLabel { alpha }.partition(&labels, 10, 5, seed).unwrap();
            let counts: Vec<_> = split.iter().map(|part| class_counts(part, &labels, 10)).collect();
            (0..10).map(|class| counts.iter().map(|c| c[class]).max().unwrap() as f64 / 100.0).sum::<f64>() / 10.0
        };
        (0..20).map(main_holders).sum::<f64>() / 20.0
    };
    let [small, large] = [0.05, 1000.0].map(concentration);
    assert!(small > 0.8, "{small}");
    assert!(large < 0.25, "{large}");
}

/// The share of one of two parts under a symmetric Dirichlet distribution has variance 1 / (4 (2 alpha + 1)).
#[test]
fn shares_have_the_variance_of_the_dirichlet_distribution() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for alpha in [0.1, 1.0, 10.0] {
        let draws = 20_000;
        let variance = (0..draws)
            .map(|_| {
                let weights = dirichlet(alpha, 2, &mut rng);
                (weights[0] / (weights[0] + weights[1]) - 0.5).powi(2)
            })
            .sum::<f64>()
            / f64::from(draws);
        let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
        assert!((variance / expected - 1.0).abs() < 0.05, "alpha {alpha}: {variance}, expected {expected}");
    }
}

#[test]
fn two_shards_a_client_mean_at_most_two_classes() {
    // 100 images of each of 10 classes in 20 shards of 50: no shard crosses a class.
    let labels = labels(1000);
    let split = Partitioner::Shards { per_client: 2 }.partition(&labels, 10, 10, 7).unwrap();
    for part in &split {
        assert_eq!(part.len(), 100);
        assert!(class_counts(part, &labels, 10).iter().filter(|&&n| n > 0).count() <= 2);
    }
}

#[test]
fn more_parts_than_images_is_refused() {
    let refused = Partitioner::Iid.partition(&labels(3), 10, 4, 0);
    assert_eq!(refused, Err(PartitionError::TooFewImages { images: 3, parts: 4, per_part: 1 }));
}

#[test]
fn more_shards_than_images_is_refused() {
    let refused = Partitioner::Shards { per_client: 2 }.partition(&labels(5), 10, 3, 0);
    assert_eq!(refused, Err(PartitionError::TooFewImages { images: 5, parts: 3, per_part: 2 }));
}

#[test]
fn no_parts_at_all_is_refused() {
    let refused = Partitioner::Iid.partition(&labels(5), 10, 0, 0);
    assert_eq!(refused, Err(PartitionError::TooFewImages { images: 5, parts: 0, per_part: 1 }));
}

#[test]
fn a_label_beyond_the_classes_is_refused() {
    let refused = Partitioner::Iid.partition(&[0, 1, 7], 7, 2, 0);
    assert_eq!(refused, Err(PartitionError::Label { index: 2, label: 7, classes: 7 }));
}

#[test]
fn a_wrong_partitioner_is_refused_with_what_is_allowed() {
    for (text, expected) in [
        ("dirichlet", "'dirichlet' is none of iid, dirichlet-quantity:ALPHA, dirichlet-label:ALPHA, shards:NUMBER"),
        ("iid:1", "'iid:1' is none of iid, dirichlet-quantity:ALPHA, dirichlet-label:ALPHA, shards:NUMBER"),
        ("dirichlet-label:0", "alpha is '0', allowed are 0.001 to 1000000"),
        ("dirichlet-quantity:NaN", "alpha is 'NaN', allowed are 0.001 to 1000000"),
        ("shards:0", "shards a client is '0', allowed are 1 to 1000"),
    ] {
        assert_eq!(text.parse::<Partitioner>().unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_part_is_named_as_a_fraction() {
    assert_eq!("2/3".parse(), Ok(PartitionChoice { part: 2, of: 3 }));
    for bad in ["", "2", "0/3", "4/3", "1/1000001", "-1/3", "1/2/3"] {
        assert_eq!(bad.parse::<PartitionChoice>(), Err(ParseError::Choice(bad.to_owned())));
    }
}

#[test]
fn a_split_is_described_by_its_counts() {
    let text = describe(&[vec![0, 2], vec![1]], &[0, 1, 0], 2);
    assert_eq!(text, "part 1/2: 2 images, by class 2 0\npart 2/2: 1 images, by class 0 1\n");
}
