//! Cedar: policies parsed once, a request with its context for each question; V2 is what is permitted.

use cedar_policy::{
    Authorizer, Context, Decision, Entities, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression,
};

use crate::{Ask, Shown, fixtures::SHARE, position};

pub(crate) fn authorizer(shown: Shown) -> Ask {
    let rule = format!(
        r#"permit (principal, action == Action::"route", resource == Pool::"v2")
           when {{
               (context has x_beta && ["beta", "internal"].contains(context.x_beta)) || context.position < {SHARE}
           }};"#
    );
    let policies: PolicySet = rule.parse().unwrap();
    let (authorizer, entities) = (Authorizer::new(), Entities::empty());
    let session: EntityTypeName = "Session".parse().unwrap();
    let action: EntityUid = r#"Action::"route""#.parse().unwrap();
    let resource: EntityUid = r#"Pool::"v2""#.parse().unwrap();
    let attributes = shown.attributes();
    Box::new(move |request| {
        let id = EntityId::new(request.session.as_deref().unwrap_or(&request.id));
        let principal = EntityUid::from_type_name_and_id(session.clone(), id);
        let values = attributes.iter().filter_map(|(name, attribute)| {
            let value = request.attribute(attribute)?;
            Some(((*name).to_owned(), RestrictedExpression::new_string(value.to_owned())))
        });
        let at = ("position".to_owned(), RestrictedExpression::new_long(position(request).into()));
        let context = Context::from_pairs(values.chain([at])).unwrap();
        let question = Request::new(principal, action.clone(), resource.clone(), context, None).unwrap();
        authorizer.is_authorized(&question, &policies, &entities).decision() == Decision::Allow
    })
}
