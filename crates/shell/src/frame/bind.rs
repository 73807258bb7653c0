//! Arguments to parameters: by name, by unambiguous start of a name, by position, from the pipeline.

use super::error::{Category, ErrorRecord};
use super::parameter::{FromPipeline, Kind, Parameter};
use super::transform::{fits_exactly, transform};
use crate::lang::Span;
use crate::value::Value;

/// An evaluated argument. A parameter without a value may take the next argument.
#[derive(Debug)]
pub(crate) struct Arg {
    pub name: Option<String>,
    pub value: Option<Value>,
    /// A bare number as it was written, for parameters that want text.
    pub text: Option<String>,
    pub span: Span,
}

/// The values of the parameters given so far and the parameter sets still possible.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    values: Vec<(&'static Parameter, Value)>,
    sets: Vec<&'static str>,
    default_set: Option<&'static str>,
}

type Refusal = Box<(ErrorRecord, Option<Span>)>;

fn refuse(category: Category, id: &'static str, message: String, span: Option<Span>) -> Refusal {
    Box::new((ErrorRecord::new(category, "ParameterBindingException", id, message), span))
}

impl Bound {
    pub(crate) fn new(parameters: &[&'static Parameter]) -> Self {
        let mut sets = Vec::new();
        for set in parameters.iter().flat_map(|parameter| parameter.sets) {
            if !sets.contains(set) {
                sets.push(*set);
            }
        }
        Self { values: Vec::new(), default_set: sets.first().copied(), sets }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(p, _)| p.name.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn has(&self, parameter: &Parameter) -> bool {
        self.get(parameter.name).is_some()
    }

    pub(crate) fn set(&self) -> Option<&'static str> {
        match self.default_set {
            Some(default) if self.sets.contains(&default) => Some(default),
            _ => self.sets.first().copied(),
        }
    }

    /// Binds a value, if the parameter can still stand beside those bound before.
    fn bind(
        &mut self,
        parameter: &'static Parameter,
        value: Value,
        span: Option<Span>,
    ) -> Result<(), Refusal> {
        if self.has(parameter) {
            let name = parameter.name;
            let message = format!(
                "Cannot bind parameter because parameter '{name}' is specified more than once. To provide multiple \
                 values to parameters that can accept multiple values, use the array syntax. For example, \
                 \"-parameter value1,value2,value3\"."
            );
            return Err(refuse(Category::InvalidArgument, "ParameterAlreadyBound", message, span));
        }
        if !parameter.in_any_of(&self.sets) {
            let message = "Parameter set cannot be resolved using the specified named parameters.".to_owned();
            return Err(refuse(Category::InvalidArgument, "AmbiguousParameterSet", message, None));
        }
        if !parameter.sets.is_empty() {
            self.sets.retain(|set| parameter.sets.contains(set));
        }
        self.values.push((parameter, value));
        Ok(())
    }

    fn transformed(&mut self, parameter: &'static Parameter, arg: &Arg) -> Result<(), Refusal> {
        let wants_text = matches!(parameter.kind, Kind::String | Kind::Strings);
        let value = match &arg.text {
            Some(text) if wants_text => Value::String(text.clone()),
            _ => arg.value.clone().unwrap_or_default(),
        };
        let value = transform(parameter, value).map_err(|error| Box::new((error, Some(arg.span))))?;
        self.bind(parameter, value, Some(arg.span))
    }

    /// Binds to the first parameter whose type takes the argument; if none does, says why not of the first.
    fn first_fitting(&mut self, candidates: &[&'static Parameter], arg: &Arg) -> Result<(), Refusal> {
        let mut refusal = None;
        for parameter in candidates {
            match self.transformed(parameter, arg) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Binds all arguments left over to one parameter.
    fn gather(
        &mut self,
        parameter: &'static Parameter,
        args: impl Iterator<Item = Arg>,
    ) -> Result<(), Refusal> {
        let mut args: Vec<Arg> = args.collect();
        let span = args.iter().map(|arg| arg.span).reduce(Span::to).unwrap_or_default();
        if let [_] = args.as_slice() {
            return self.transformed(parameter, &args.swap_remove(0));
        }
        let value = Value::Array(args.into_iter().map(|arg| arg.value.unwrap_or_default()).collect());
        self.transformed(parameter, &Arg { name: None, value: Some(value), text: None, span })
    }
}

/// Binds what stands on the command line.
pub(crate) fn bind_arguments(parameters: &[&'static Parameter], args: Vec<Arg>) -> Result<Bound, Refusal> {
    let mut bound = Bound::new(parameters);
    let mut positional = Vec::new();
    let mut args = args.into_iter().peekable();
    while let Some(mut arg) = args.next() {
        let Some(name) = arg.name.take() else {
            positional.push(arg);
            continue;
        };
        let parameter = find(parameters, &name, arg.span)?;
        if arg.value.is_none() {
            if matches!(parameter.kind, Kind::Switch) {
                arg.value = Some(Value::Bool(true));
            } else if let Some(value) = args.next_if(|next| next.name.is_none()) {
                arg = Arg { span: arg.span.to(value.span), ..value };
            } else {
                let (name, wanted) = (parameter.name, parameter.kind.type_name());
                let message = format!(
                    "Missing an argument for parameter '{name}'. Specify a parameter of type '{wanted}' and try again."
                );
                return Err(refuse(Category::InvalidArgument, "MissingArgument", message, Some(arg.span)));
            }
        }
        bound.transformed(parameter, &arg)?;
    }
    let mut positional = positional.into_iter();
    while let Some(arg) = positional.next() {
        let candidates = next_positional(parameters, &bound);
        let Some(first) = candidates.first() else {
            let text = arg.text.clone().unwrap_or_else(|| arg.value.clone().unwrap_or_default().to_text());
            let message = format!("A positional parameter cannot be found that accepts argument '{text}'.");
            return Err(refuse(
                Category::InvalidArgument,
                "PositionalParameterNotFound",
                message,
                Some(arg.span),
            ));
        };
        if first.rest {
            bound.gather(first, std::iter::once(arg).chain(positional.by_ref()))?;
        } else {
            bound.first_fitting(&candidates, &arg)?;
        }
    }
    Ok(bound)
}

/// The parameter of that name, alias or unambiguous start of its name.
fn find(parameters: &[&'static Parameter], name: &str, span: Span) -> Result<&'static Parameter, Refusal> {
    if let Some(exact) = parameters.iter().find(|parameter| parameter.answers_to(name)) {
        return Ok(exact);
    }
    let starts = |full: &str| full.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let matching: Vec<_> =
        parameters.iter().filter(|p| starts(p.name) || p.aliases.iter().any(|alias| starts(alias))).collect();
    match matching.as_slice() {
        [one] => Ok(one),
        [] => {
            let message = format!("A parameter cannot be found that matches parameter name '{name}'.");
            Err(refuse(Category::InvalidArgument, "NamedParameterNotFound", message, Some(span)))
        }
        several => {
            let names: Vec<String> = several.iter().map(|parameter| format!("-{}", parameter.name)).collect();
            let message = format!(
                "Parameter cannot be processed because the parameter name '{name}' is ambiguous. \
                 Possible matches include: {}.",
                names.join(" ")
            );
            Err(refuse(Category::InvalidArgument, "AmbiguousParameter", message, Some(span)))
        }
    }
}

/// The parameters that may take the next argument without a name, those of the default set first.
fn next_positional(parameters: &[&'static Parameter], bound: &Bound) -> Vec<&'static Parameter> {
    let open = || {
        parameters
            .iter()
            .filter(|p| p.position.is_some() && !bound.has(p) && p.in_any_of(&bound.sets))
            .copied()
    };
    let lowest = open().filter_map(|p| p.position).min();
    let preferred: Vec<&str> = bound.set().into_iter().collect();
    let mut candidates: Vec<_> = open().filter(|p| p.position == lowest).collect();
    candidates.sort_by_key(|p| !p.in_any_of(&preferred));
    candidates
}

/// Binds one object from the pipeline on top of the arguments.
pub(crate) fn bind_record(
    parameters: &[&'static Parameter],
    arguments: &Bound,
    record: &Value,
) -> Result<Bound, Refusal> {
    let mut bound = arguments.clone();
    let by_value = |p: &&&Parameter| matches!(p.pipeline, FromPipeline::Value | FromPipeline::Both);
    let mut found = false;
    for parameter in parameters.iter().filter(by_value) {
        if !bound.has(parameter) && parameter.in_any_of(&bound.sets) && fits_exactly(parameter.kind, record) {
            let value = transform(parameter, record.clone()).map_err(|error| Box::new((error, None)))?;
            bound.bind(parameter, value, None)?;
            found = true;
            break;
        }
    }
    let by_name = |p: &&&Parameter| matches!(p.pipeline, FromPipeline::PropertyName | FromPipeline::Both);
    for parameter in parameters.iter().filter(by_name) {
        if bound.has(parameter) || !parameter.in_any_of(&bound.sets) {
            continue;
        }
        let names = std::iter::once(&parameter.name).chain(parameter.aliases);
        let Some(value) = names.filter_map(|name| property(record, name)).next() else { continue };
        let value = transform(parameter, value).map_err(|error| Box::new((error, None)))?;
        bound.bind(parameter, value, None)?;
        found = true;
    }
    if found {
        return Ok(bound);
    }
    let message = "The input object cannot be bound to any parameters for the command either because the command \
                   does not take pipeline input or the input and its properties do not match any of the parameters \
                   that take pipeline input."
        .to_owned();
    let mut refusal = refuse(Category::InvalidArgument, "InputObjectNotBound", message, None);
    refusal.0.target = Some((record.to_text(), record.type_name().to_owned()));
    Err(refusal)
}

fn property(record: &Value, name: &str) -> Option<Value> {
    match record {
        Value::Object(object) => object.get(name).filter(|value| !value.is_null()).cloned(),
        _ => None,
    }
}

/// Refuses a call that lacks what it must have. `pipeline_follows`: the pipeline may still bring it.
pub(crate) fn check_mandatory(
    parameters: &[&'static Parameter],
    bound: &Bound,
    pipeline_follows: bool,
) -> Result<(), Refusal> {
    let missing_in = |set: &[&str]| -> Vec<&'static str> {
        let lacking = parameters.iter().filter(|p| {
            let may_come = pipeline_follows && p.pipeline != FromPipeline::No;
            p.mandatory && p.in_any_of(set) && !bound.has(p) && !may_come
        });
        lacking.map(|p| p.name).collect()
    };
    let missing = match bound.set() {
        None => missing_in(&[]),
        Some(preferred) => {
            if bound.sets.iter().any(|set| missing_in(&[set]).is_empty()) {
                return Ok(());
            }
            missing_in(&[preferred])
        }
    };
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "Cannot process command because of one or more missing mandatory parameters: {}.",
        missing.join(" ")
    );
    Err(refuse(Category::InvalidArgument, "MissingMandatoryParameter", message, None))
}
