//! Every exact claim holds, number by number.

use duel_evaluation::claims::EXACT;

macro_rules! each_holds {
    ($($name:ident: $id:literal,)*) => {
        $(
            #[test]
            fn $name() {
                holds($id);
            }
        )*

        #[test]
        fn every_claim_has_a_test() {
            assert_eq!([$($id),*], EXACT.map(|(id, _)| id));
        }
    };
}

each_holds! {
    optimum_is_unique: "A1",
    rewards_of_one_class: "A2",
    population_optimum: "A3",
    dpo_gradient: "A4",
    gradient_asymmetry: "A5",
    off_coverage: "A6",
    deterministic_preferences: "A7",
    label_flips: "A8",
    best_of_n: "A9",
    kl_estimators: "A10",
    both_methods_reach_the_optimum: "A11",
    ppo_learns_from_its_own_completions: "C7",
}

fn holds(id: &str) {
    let (_, measure) = EXACT.iter().find(|(other, _)| *other == id).unwrap_or_else(|| panic!("no claim {id}"));
    let claim = measure().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(claim.id, id);
    let broken: Vec<_> = claim.findings.iter().filter(|f| !f.holds).collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert!(claim.holds(), "{id} has no numbers");
}
