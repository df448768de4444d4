//! Every exact claim holds, number by number.

#[test]
fn every_exact_claim_holds() {
    let claims = duel_evaluation::claims::exact().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(claims.len(), 12);
    for claim in claims {
        let broken: Vec<_> = claim.findings.iter().filter(|f| !f.holds).collect();
        assert!(broken.is_empty(), "{broken:?}");
        assert!(claim.holds(), "{} has no numbers", claim.id);
    }
}
