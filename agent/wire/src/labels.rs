use egress::Jurisdiction;

/// What the residency policy decides on: whose data a request carries and what may be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    pub tenant: String,
    pub jurisdiction: Jurisdiction,
    pub data_class: String,
    pub purpose: String,
}
